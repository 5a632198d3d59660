package luks2

import "fmt"

// A KDF is how a keyslot derives its encryption key from what the owner gives,
// and what that costs.
type KDF struct {
	Type       string // argon2id, argon2i or pbkdf2
	Memory     int64  // KiB; argon2
	Passes     int64  // argon2
	Threads    int64  // argon2
	Iterations int64  // pbkdf2
}

// RandomKey is for keys of 256 random bits. Key derivation exists to make
// guessing a passphrase costly; nobody guesses 256 random bits, so it is the
// lowest count that cryptsetup accepts, and opening is quick.
var RandomKey = KDF{Type: "pbkdf2", Iterations: MinIterations}

// Passphrase is for passphrases: argon2id with cryptsetup's default upper
// limits, 1 GiB and 4 threads, and its least number of passes (4). The costs
// are fixed and not measured, so that a slow laptop makes no weak volume.
var Passphrase = KDF{Type: "argon2id", Memory: 1 << 20, Passes: 4, Threads: 4}

// String is for people, for example "argon2id with 1024 MiB, 4 passes".
func (k KDF) String() string {
	if k.Type == "pbkdf2" {
		return fmt.Sprintf("pbkdf2 with %d iterations", k.Iterations)
	}
	return fmt.Sprintf("%s with %d MiB, %d passes", k.Type, k.Memory>>10, k.Passes)
}

// withSalt is the form of the JSON area.
func (k KDF) withSalt(salt []byte) kdf {
	out := kdf{Type: k.Type, Salt: salt, Iterations: k.Iterations, Time: k.Passes, Memory: k.Memory, CPUs: k.Threads}
	if k.Type == "pbkdf2" {
		out.Hash = "sha256"
	}
	return out
}

func (k kdf) costs() KDF {
	return KDF{Type: k.Type, Memory: k.Memory, Passes: k.Time, Threads: k.CPUs, Iterations: k.Iterations}
}
