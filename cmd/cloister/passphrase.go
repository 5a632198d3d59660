package main

import (
	"cloister/client/advice"
	"cloister/secret"
)

// minPassphrase is in bytes. It keeps out what falls in minutes, no more.
const minPassphrase = 12

// ask reads a passphrase from the terminal, never from a pipe or an argument.
// next is what to do if there is no terminal.
func (a *app) ask(prompt, next string) (secret.Bytes, error) { return askTerminal(prompt, next) }

// askSigning asks for the passphrase of the signing key.
func (a *app) askSigning(prompt string) (secret.Bytes, error) {
	return a.ask(prompt, "run it in a terminal, or put the key into an SSH agent: cloister init --key agent")
}

// askStore asks for the passphrase of the store of keys.
func (a *app) askStore(prompt string) (secret.Bytes, error) {
	return a.ask(prompt, "run it in a terminal: the keys of your volumes are protected by a passphrase")
}

// askTwice asks for a new passphrase, twice.
func (a *app) askTwice(prompt, next string) (secret.Bytes, error) {
	p, err := a.ask(prompt, next)
	if err != nil {
		return secret.Bytes{}, err
	}
	if err := a.confirm(p, next); err != nil {
		p.Wipe()
		return secret.Bytes{}, err
	}
	return p, nil
}

// confirm asks for p again.
func (a *app) confirm(p secret.Bytes, next string) error {
	if p.Len() < minPassphrase {
		return advice.Refuse("choose a longer one, for example six random words", "a passphrase of less than %d characters", minPassphrase)
	}
	again, err := a.ask("The same again: ", next)
	if err != nil {
		return err
	}
	defer again.Wipe()
	if !p.Equal(again) {
		return advice.Refuse("run the command again; nothing was changed", "the two passphrases differ")
	}
	return nil
}
