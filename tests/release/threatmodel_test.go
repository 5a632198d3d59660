package release

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const attacks = 45

// A document that names a test which was renamed or removed claims what
// nobody tests.
func TestTheThreatModelCoversEveryAttackAndNamesFilesThatExist(t *testing.T) {
	b, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	row := regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]+) \|$`)
	table, _, _ := strings.Cut(text, "### Tried on the cluster")
	rows := row.FindAllStringSubmatch(table, -1)
	if len(rows) != attacks {
		t.Errorf("%d attacks, not %d", len(rows), attacks)
	}
	file := regexp.MustCompile("`([a-z0-9_./-]+\\.(?:go|c|sh))`")
	for i, r := range rows {
		if r[1] != strconv.Itoa(i+1) {
			t.Errorf("attack %s stands in place %d", r[1], i+1)
		}
		if !file.MatchString(r[2]) && !strings.Contains(r[2], "not yet") {
			t.Errorf("attack %s has neither a test nor the words: not yet", r[1])
		}
	}
	for _, name := range file.FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join("../..", name[1])); err != nil {
			t.Errorf("the threat model names a file that is not there: %v", err)
		}
	}
}
