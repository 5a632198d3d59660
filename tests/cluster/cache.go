package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// keepNewest is how many entries of a kind (image, base state, prepared state) stay in the cache. Two, so
// that going back and forth between two versions of the product does not rebuild.
const keepNewest = 2

// cacheDir is where everything lives that is not in git.
func cacheDir() (string, error) {
	dir := os.Getenv("CLOISTER_CACHE")
	if dir == "" {
		base := os.Getenv("XDG_CACHE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("find the cache directory: %w", err)
			}
			base = filepath.Join(home, ".cache")
		}
		dir = filepath.Join(base, "cloister")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	return dir, nil
}

// An entry is a finished directory of the cache, held by a shared lock so that nobody deletes it.
type entry struct {
	dir  string
	lock *fileLock
}

func (e *entry) file(name string) string { return filepath.Join(e.dir, name) }

// id is fresh for each build: what is derived from an entry is keyed by it, so that a rebuilt entry
// never becomes the disk under something that was saved on its predecessor.
func (e *entry) id() (string, error) {
	b, err := os.ReadFile(e.file("id"))
	if err != nil {
		return "", fmt.Errorf("read cache entry: %w", err)
	}
	return string(b), nil
}

func (e *entry) release() {
	if e != nil {
		e.lock.unlock()
	}
}

// cached returns the entry kind/key and calls build to fill a temporary directory if there is none.
// Builders of one key wait for each other; a build that fails or is killed leaves nothing under the name.
func cached(ctx context.Context, kind, key string, build func(ctx context.Context, dir string) error) (*entry, error) {
	root, err := cacheDir()
	if err != nil {
		return nil, err
	}
	parent := filepath.Join(root, kind)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	dir := filepath.Join(parent, key)
	lockPath := dir + ".lock"
	for {
		shared, err := lockShared(lockPath)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(dir, "id")); err == nil {
			touch(dir)
			prune(parent, key)
			return &entry{dir, shared}, nil
		}
		shared.unlock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := buildEntry(ctx, dir, lockPath, build); err != nil {
			return nil, err
		}
	}
}

func buildEntry(ctx context.Context, dir, lockPath string, build func(context.Context, string) error) error {
	lock, err := lockExclusive(lockPath)
	if err != nil {
		return err
	}
	defer lock.unlock()
	if _, err := os.Stat(filepath.Join(dir, "id")); err == nil {
		return nil
	}
	tmp := dir + ".tmp" // only the holder of the exclusive lock touches it
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(dir), os.Mkdir(tmp, 0o755)); err != nil {
		return fmt.Errorf("make room for %s: %w", dir, err)
	}
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "id"), []byte(randomID()), 0o644); err != nil {
		return fmt.Errorf("finish %s: %w", dir, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("finish %s: %w", dir, err)
	}
	return nil
}

// prune deletes all but the newest entries of a kind; those in use stay. So do the empty lock files:
// somebody may be waiting for one.
func prune(parent, current string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	var infos []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && !strings.HasSuffix(e.Name(), ".tmp") && e.Name() != current {
			infos = append(infos, info)
		}
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].ModTime().After(infos[j].ModTime()) })
	for i, info := range infos {
		if i < keepNewest-1 {
			continue
		}
		dir := filepath.Join(parent, info.Name())
		if lock, err := tryLock(dir + ".lock"); err == nil {
			os.RemoveAll(dir)
			lock.unlock()
		}
	}
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}
