package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"cloister/kms"
	"cloister/secret"
)

// redeem takes a job's key from the key server at an address. Standard input is
// a line with the token, and the server's CA certificate.
func redeem(args []string) error {
	if len(args) != 1 {
		return errors.New("want an address")
	}
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	token, ca, _ := strings.Cut(string(in), "\n")
	client, err := kms.New(kms.Config{Address: args[0], CAPEM: []byte(ca)})
	if err != nil {
		return err
	}
	key, err := client.Redeem(context.Background(), secret.New([]byte(token)))
	if err != nil {
		return err
	}
	fmt.Printf("a key of %d bytes\n", key.Len())
	return nil
}
