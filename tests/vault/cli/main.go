// Command cli is HashiCorp Vault's own command line: what people type as
// `vault`. build.sh builds it.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
