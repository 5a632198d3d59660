// Package handoff is noded's end of the socket on which the SPANK plugin hands
// over each job step of a secure node, and on which it learns whether the step
// may run.
//
// One connection is one step. Its first datagram describes the step and, for
// the batch step, brings the spooled script as an open file; the verdict goes
// back on the same connection, which then stays open for as long as slurmstepd
// lives: when it ends without an [End], slurmstepd was killed.
//
// The package refuses peers that are not root, requests that are malformed,
// incomplete, too long or too late, and descriptors that were not expected or
// are not ordinary files. It decides nothing about jobs. The C half, which
// reads the same format, is cgo/plugin/message.c and client.c.
package handoff
