// Command least is what no program that makes a volume of files can leave out,
// and nothing else: least FROM TO reads the regular files below FROM, encrypts
// them with AES-256-XTS, hashes the blocks of what comes out for a hash tree,
// and writes that to TO, on all cores, with Cloister's own cipher and hash. There
// is no file system in TO, no name, no tree, and each file begins anew.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"cloister/secret"
	"cloister/volume/verity"
	"cloister/volume/xts"
)

// chunk is a power of two that stays in a core's cache.
const chunk = 256 << 10

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: least FROM TO")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "least: "+err.Error())
		os.Exit(1)
	}
}

func run(from, to string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	cipher, err := xts.New(secret.Alloc(64)) // of zeros: it takes as long as any
	if err != nil {
		return err
	}
	var files []string
	if err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		return err
	}
	var next, end atomic.Int64
	failed := make([]error, runtime.NumCPU())
	var all sync.WaitGroup
	for i := range failed {
		all.Go(func() {
			room, hasher := make([]byte, chunk), verity.NewHasher(make([]byte, verity.SaltSize))
			digests := make([]byte, 0, chunk/verity.BlockSize*verity.DigestSize)
			for n := next.Add(1); n <= int64(len(files)); n = next.Add(1) {
				if failed[i] = one(files[n-1], out, &end, cipher, hasher, room, digests); failed[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func one(file string, out *os.File, end *atomic.Int64, cipher *xts.Cipher, hasher *verity.Hasher, room, digests []byte) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	for {
		n, err := io.ReadFull(in, room)
		if n == 0 && err == io.EOF {
			return nil
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		whole := room[:(n+verity.BlockSize-1)/verity.BlockSize*verity.BlockSize]
		at := end.Add(int64(len(whole))) - int64(len(whole))
		cipher.Encrypt(whole, whole, verity.BlockSize, at)
		hasher.Append(digests[:0], whole)
		if _, err := out.WriteAt(whole, at); err != nil {
			return err
		}
	}
}
