// Package sealed reads and writes sealed jobs, format 1: a batch script that
// is signed and encrypted and still a valid sbatch script. docs/format.md is
// its specification and testdata/vectors its test vectors.
//
// A sealed job is made by Encode. A reader takes the steps in this order, and
// each has its own refusal:
//
//	e, err := sealed.Parse(file)               // shape: one encoding only
//	signer, err := e.Verify(allowed, now)      // who signed every byte of it
//	m, script, err := e.Decrypt(identity)      // what it asks for
//	err = sealed.CheckBinding(m, signer, user) // the signer sealed it, for this user
//	err = m.CheckPlace(cluster, class)
//	err = m.CheckTime(now)
//
// Everything is bounded before it is read, and every file, manifest and secret
// has exactly one encoding: what does not equal its own re-encoding is refused.
// The package opens no file and no connection, keeps no state (that a job runs
// once is for the node to remember) and knows no policy: Validate says what a
// manifest may say at all, not what a node allows.
package sealed

// Limits of format 1, in bytes unless said otherwise.
const (
	// Format is the version that this package reads and writes.
	Format = 1

	// MaxSize bounds a sealed job: Slurm's default max_script_size
	// (slurm.conf(5), SchedulerParameters).
	MaxSize = 4 << 20

	// MaxPayload bounds manifest line and script together. 2 MiB become
	// 2.7 MiB of armor, which leaves room for some 500 hybrid recipients.
	MaxPayload = 2 << 20

	// MaxManifest bounds the manifest line.
	MaxManifest = 256 << 10

	// MaxRecipients counts the age recipients of one job. age itself
	// refuses more than 1024 stanzas.
	MaxRecipients = 512
)

// Namespace is the SSHSIG namespace of a sealed job's signature
// (PROTOCOL.sshsig), so that no other signature of the same key serves as one.
const Namespace = "cloister-job"
