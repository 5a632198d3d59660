// Package signers reads OpenSSH's allowed_signers files (ssh-keygen(1),
// section ALLOWED SIGNERS): which users' keys may sign, in which namespaces
// and from when to when.
//
// It serves the whole syntax: principals as lists of patterns with '*', '?'
// and '!', quoting, namespaces, valid-after and valid-before in every form and
// in local time as OpenSSH counts it, and cert-authority with the certificates
// that such a key signed. What it accepts, stock ssh-keygen -Y verify accepts.
//
// It refuses more than ssh-keygen does, on purpose:
//
//   - A line that it does not understand refuses the whole file, with the
//     line's number; ssh-keygen skips such a line.
//   - RSA below 2048 bits (ssh-keygen: below 1024), and a certificate that its
//     authority signed with SHA-1.
//   - A certificate as a line's key, because ssh-keygen then does not look at
//     the certificate's own time and principals; and one with critical options
//     (PROTOCOL.certkeys), because none of them has a meaning here.
//   - A security key's signature without the touch of its owner.
//   - Days that no calendar has, blanks in a time, principals that are not
//     ASCII, control characters.
package signers
