package start

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cloister/noded/audit"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// levelName is the variable of the unit's environment that says how much noded
// logs besides its records: debug, info, warn or error.
const levelName = "CLOISTER_LOG_LEVEL"

// newLog writes to the journal, by way of standard error. Of equal lines in one
// second it drops all but a hundred, and then but one in a hundred: zap's own
// sampling.
func newLog() (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	if said := os.Getenv(levelName); said != "" {
		level, err := zapcore.ParseLevel(said)
		if err != nil || level > zapcore.ErrorLevel || said != level.String() {
			return nil, fmt.Errorf("%s is %q, not debug, info, warn or error", levelName, said)
		}
		c.Level.SetLevel(level)
	}
	log, err := c.Build(zap.AddStacktrace(zap.DPanicLevel), zap.WithCaller(false))
	if err != nil {
		return nil, fmt.Errorf("starting the log: %w", err)
	}
	return log, nil
}

func openRecords(c Config, log *zap.Logger) (*audit.Log, error) {
	boot, err := bootID("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	return audit.Open(audit.Config{Dir: filepath.Join(c.StateDir, "audit"), Boot: boot, Node: c.Node, Version: c.Version, Journal: func(r audit.Record, h audit.Head) {
		if err := journal.Send(message(r), priority(r), fields(r, h)); err != nil {
			log.Error(message(r), zap.Uint64("record", r.Seq), zap.NamedError("journal", err))
		}
	}}), nil
}

// bootID reads the kernel's (random(4)) without its dashes.
func bootID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("asking for the boot id: %w", err)
	}
	id := strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
		return "", fmt.Errorf("asking for the boot id: the kernel says %.60q", id)
	}
	return id, nil
}

// priority is syslog(3)'s.
func priority(r audit.Record) journal.Priority {
	switch {
	case r.Event == audit.Fenced:
		return journal.PriAlert
	case r.Event == audit.Trouble:
		return journal.PriCrit
	case r.Outcome == audit.Failed:
		return journal.PriErr
	case r.Event == audit.Refused:
		return journal.PriWarning
	}
	return journal.PriInfo
}

// message is a record for a person to read, one line.
func message(r audit.Record) string {
	var b strings.Builder
	switch r.Event {
	case audit.Trouble:
		b.WriteString("incident: " + r.Incident.String())
	case audit.Done, audit.Undone:
		b.WriteString(r.Phase + " " + string(r.Event))
	default:
		b.WriteString(string(r.Event))
	}
	if r.Job != 0 {
		fmt.Fprintf(&b, ", job %d", r.Job)
		if r.Step != nil {
			fmt.Fprintf(&b, ".%d", *r.Step)
		}
		if r.Task != nil {
			fmt.Fprintf(&b, ", task %d", *r.Task)
		}
		if r.Attempt > 0 {
			fmt.Fprintf(&b, ", attempt %d", r.Attempt)
		}
		if r.User != "" {
			b.WriteString(" of " + r.User)
		}
	}
	if r.Took > 0 {
		fmt.Fprintf(&b, ", %.1f ms", r.Took)
	}
	if r.Outcome == audit.Failed {
		b.WriteString(", failed")
	}
	if r.More > 0 {
		fmt.Fprintf(&b, ", and %d more like it", r.More)
	}
	if r.Detail != "" {
		b.WriteString(": " + r.Detail)
	}
	return b.String()
}

// fields are the journal's for a record, as docs/records.md lists them.
func fields(r audit.Record, h audit.Head) map[string]string {
	f := map[string]string{"CLOISTER_EVENT": string(r.Event)}
	put := func(name, value string) {
		if value != "" {
			f["CLOISTER_"+name] = value
		}
	}
	number := func(name string, n *uint32) {
		if n != nil {
			put(name, strconv.FormatUint(uint64(*n), 10))
		}
	}
	put("INCIDENT", string(r.Incident))
	put("SESSION", r.Session)
	if r.Job != 0 {
		number("JOB", &r.Job)
	}
	number("STEP", r.Step)
	number("TASK", r.Task)
	if r.Attempt != 0 {
		number("ATTEMPT", &r.Attempt)
	}
	number("UID", r.UID)
	put("USER", r.User)
	put("PHASE", r.Phase)
	put("OUTCOME", string(r.Outcome))
	put("DETAIL", r.Detail)
	if r.Took > 0 {
		put("TOOK_MS", strconv.FormatFloat(r.Took, 'f', -1, 64))
	}
	if r.More > 0 {
		put("MORE", strconv.FormatUint(r.More, 10))
	}
	if h != (audit.Head{}) {
		put("HEAD", h.String())
	}
	return f
}
