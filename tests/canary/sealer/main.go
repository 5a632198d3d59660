// Command sealer seals a job as `cloister seal` does, with the same packages, and tells its secrets: the job
// key and the tokens, which exist nowhere else in the clear. The canary must know them to look for them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"cloister/client/sealing"
	"cloister/client/signing"
	"cloister/kms"
	"cloister/secret"
	"cloister/site"
)

// recorder is the real KMS client, and remembers what goes through it.
type recorder struct {
	*kms.Client
	JobKey []byte
	Tokens []string
}

func (r *recorder) Wrap(ctx context.Context, userToken, jobKey secret.Bytes, ttl time.Duration) (kms.Token, error) {
	t, err := r.Client.Wrap(ctx, userToken, jobKey, ttl)
	if err == nil {
		r.JobKey = append([]byte(nil), jobKey.Reveal()...)
		r.Tokens = append(r.Tokens, string(t.Token.Reveal()))
	}
	return t, err
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sealer: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	home := os.Getenv("CLOISTER_HOME")
	if len(args) != 2 || home == "" {
		return errors.New("usage: CLOISTER_HOME=DIR sealer SCRIPT SEALED")
	}
	config, err := signing.Load(home)
	if err != nil {
		return err
	}
	o := sealing.Options{Home: home, Script: args[0], Out: args[1], User: config.User, Now: time.Now}
	if o.Site, err = site.Load(home, ""); err != nil {
		return err
	}
	client, err := o.Site.Client(0)
	if err != nil {
		return err
	}
	if o.UserToken, _, err = o.Site.UserToken(home); err != nil {
		return err
	}
	defer o.UserToken.Wipe()
	signer, err := config.Open(nil) // the test's signing key has no passphrase
	if err != nil {
		return err
	}
	defer signer.Close()
	o.Signer = signer.Signer
	r := &recorder{Client: client}
	o.KMS = r
	if _, err := sealing.Seal(ctx, o); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"job_key": r.JobKey, "tokens": r.Tokens})
}
