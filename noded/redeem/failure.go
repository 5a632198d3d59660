package redeem

import (
	"errors"
	"fmt"

	"cloister/kms"
)

// A failure is a kms.Error on its way out of the helper.
type failure struct {
	Op, Address, Cause string
	Kind               string // one of kinds
	MaybeSpent         bool
}

var kinds = map[string]error{
	"used": kms.ErrUsed, "expired": kms.ErrExpired, "foreign": kms.ErrForeign, "unreachable": kms.ErrUnreachable,
	"malformed": kms.ErrMalformed, "tls": kms.ErrTLS, "limit": kms.ErrLimit, "denied": kms.ErrDenied,
}

// describe returns what is known of an error, or the error if it is none of package kms.
func describe(err error) (*failure, error) {
	e, ok := errors.AsType[*kms.Error](err)
	if !ok {
		return nil, err
	}
	for name, kind := range kinds {
		if e.Kind == kind {
			return &failure{e.Op, e.Address, e.Cause, name, e.MaybeSpent}, nil
		}
	}
	return nil, fmt.Errorf("unknown kind of error: %w", err)
}

func (f *failure) err() error {
	kind, ok := kinds[f.Kind]
	if !ok { // never: both ends are the same program
		kind = kms.ErrMalformed
	}
	return &kms.Error{Op: f.Op, Address: f.Address, Kind: kind, Cause: f.Cause, MaybeSpent: f.MaybeSpent || !ok}
}
