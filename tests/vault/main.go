// Command vault runs another command beside a real HashiCorp Vault, its core and
// its HTTP handlers with storage in memory, on a port of the loopback interface:
//
//	go run -mod=mod . go -C ../.. test ./kms
//
// The command finds the server by KMS_ADDR, KMS_CACERT, KMS_TOKEN (root's),
// KMS_USER and KMS_PASSWORD, and KMS_ADMIN=1 says that it may change it.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	onDisk := flag.Bool("file", false, "storage in files instead of memory")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: vault [-file] COMMAND ARGS…")
		os.Exit(2)
	}
	if err := run(*onDisk, flag.Args()); err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			os.Exit(e.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

const (
	user     = "alice"
	password = "correct horse battery"
	// policy is what docs/admin.md says that a researcher needs.
	policy = `path "sys/wrapping/wrap" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }`
)

func run(onDisk bool, command []string) error {
	dir, err := os.MkdirTemp("", "cloister-vault-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	core, root, err := newCore(dir, onDisk)
	if err != nil {
		return err
	}
	defer core.Shutdown()
	cert, ca, err := certificate()
	if err != nil {
		return err
	}
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca, 0o644); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:   vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{Type: "tcp"}}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
	}
	go server.ServeTLS(l, "", "")
	defer server.Close()
	address := "https://" + l.Addr().String()
	if err := addUser(address, ca, root); err != nil {
		return err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "KMS_ADDR="+address, "KMS_CACERT="+caFile, "KMS_TOKEN="+root, "KMS_USER="+user, "KMS_PASSWORD="+password, "KMS_ADMIN=1")
	return cmd.Run()
}

func newCore(dir string, onDisk bool) (*vault.Core, string, error) {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Off})
	var (
		storage physical.Backend
		err     error
	)
	if onDisk {
		storage, err = file.NewFileBackend(map[string]string{"path": filepath.Join(dir, "store")}, logger)
	} else {
		storage, err = inmem.NewInmem(nil, logger)
	}
	if err != nil {
		return nil, "", err
	}
	core, err := vault.NewCore(&vault.CoreConfig{Physical: storage, DisableMlock: true, Logger: logger, CredentialBackends: methods, BuiltinRegistry: registry{}})
	if err != nil {
		return nil, "", err
	}
	made, err := core.Initialize(context.Background(), &vault.InitParams{BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}})
	if err != nil {
		return nil, "", err
	}
	if open, err := core.Unseal(made.SecretShares[0]); err != nil || !open {
		return nil, "", fmt.Errorf("unsealing: %v, %w", open, err)
	}
	return core, made.RootToken, nil
}

var methods = map[string]logical.Factory{"userpass": userpass.Factory, "oidc": jwtauth.Factory}

// registry knows the methods above, in place of all that a Vault is built with.
type registry struct{}

func (registry) Contains(name string, kind consts.PluginType) bool {
	return kind == consts.PluginTypeCredential && methods[name] != nil
}

func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	return func() (any, error) { return methods[name], nil }, r.Contains(name, kind)
}

func (r registry) Keys(kind consts.PluginType) (names []string) {
	for name := range methods {
		if r.Contains(name, kind) {
			names = append(names, name)
		}
	}
	return names
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

func addUser(address string, ca []byte, root string) error {
	cfg := api.DefaultConfig()
	cfg.Address = address
	if err := cfg.ConfigureTLS(&api.TLSConfig{CACertBytes: ca}); err != nil {
		return err
	}
	c, err := api.NewClient(cfg)
	if err != nil {
		return err
	}
	c.SetToken(root)
	if err := c.Sys().EnableAuthWithOptions("userpass", &api.EnableAuthOptions{Type: "userpass"}); err != nil {
		return err
	}
	if err := c.Sys().PutPolicy("researcher", policy); err != nil {
		return err
	}
	_, err = c.Logical().Write("auth/userpass/users/"+user, map[string]any{"password": password, "token_policies": "researcher", "token_ttl": "1h"})
	return err
}

func certificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a test's Vault"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
