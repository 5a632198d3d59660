// Package signers reads OpenSSH's allowed_signers files (ssh-keygen(1),
// section ALLOWED SIGNERS): which users' keys may sign, in which namespaces
// and from when to when.
//
// It is strict where ssh-keygen is lenient: one line that it does not
// understand refuses the whole file, with the line's number. Patterns ('*',
// '?', '!') and certificate authorities are refused by name, because a
// principal here is the name of one user. What it accepts means the same to
// stock ssh-keygen.
package signers
