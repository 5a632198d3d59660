#!/bin/sh
# Builds Vault's command line: build.sh PROGRAM WORK. Vault 1.21.4 was released
# with an sdk that was not. What the program has of a server of its own does not
# fit the published one and is left out: the plugins pki, ssh and transit, in a
# copy of Vault's source in WORK.
set -eu
program=$1 work=$2
cd "$(dirname "$0")/.."
vault=github.com/hashicorp/vault
dir=$(go mod download -json $vault@v1.21.4 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
rm -rf "$work"
mkdir -p "$work"
cp -r "$dir" "$work/vault"
chmod -R u+w "$work/vault"
sed -i '/logicalPki\|logicalSsh\|logicalTransit/d' "$work/vault/helper/builtinplugins/registry.go"
sed -i '/builtin\/logical\/ssh/d; s/ssh\.KeyTypeCA/"ca"/; s/ssh\.KeyTypeOTP/"otp"/; s/ssh\.KeyTypeDynamic/"dynamic"/' "$work/vault/command/ssh.go"
cp go.mod "$work/go.mod"
go mod edit -replace="$vault=$work/vault" "$work/go.mod"
go build -tags minimal -mod=mod -modfile="$work/go.mod" -o "$program" ./cli
