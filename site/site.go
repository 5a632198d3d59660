// Package site reads, checks and keeps the site file: what an administrator
// gives to the users of a cluster. It names the cluster, the KMS and its CA, the
// age recipients of the secure nodes, by class, and, if the administrator likes,
// the keys that images must be signed with.
//
// Whoever makes a user accept another site file reads all later jobs of that
// user. So a file is known by its fingerprint, which the user compares once,
// and Add refuses to replace a cluster's file by a different one unless told
// to. Nothing but the documented keys is accepted, in the documented spelling,
// and every recipient must be a hybrid post-quantum one: what is sealed today
// must stay sealed for decades.
package site

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/BurntSushi/toml"
	"github.com/hiddeco/sshsig"

	"cloister/image"
	"cloister/kms"
	"cloister/secret"
	"cloister/span"
)

const (
	// Format is the only format there is.
	Format = 1
	// MaxSize of a site file in bytes; it has room for some 500 recipients.
	MaxSize = 1 << 20
)

// The classes of node (docs: Classes of node).
const (
	Dedicated = "dedicated"
	OnDemand  = "on-demand"
)

// File is a site file. Parse returns only valid ones.
type File struct {
	Format  int
	Cluster string
	Issued  string // when it was signed, 2026-12-31T00:00:00Z, or ""
	KMS     KMS
	Class   map[string]Class // by Dedicated and OnDemand; at least one
	Images  *Images          // nil if the file does not say

	signature *sshsig.Signature // nil, or one that was verified
}

// Images is what the cluster's nodes want of images.
type Images struct {
	// Keys are armored OpenPGP and PEM public keys, as in policy.toml's keys_file.
	Keys string
}

// KMS says where the key server is and how to know it.
type KMS struct {
	Address string // https://host:port
	CA      string // PEM certificates
}

// Class is a class of nodes.
type Class struct {
	// Recipients are hybrid age recipients (age1pq1…): one a node, or one
	// for all nodes of the class.
	Recipients []string
	// MaxExpiry is the shortest max_expiry of the nodes' policies, nil if the
	// file does not say: jobs are sealed for no longer.
	MaxExpiry *span.Duration `toml:"max_expiry"`
}

// clusterName is what a node's policy takes for Slurm's ClusterName; it is also
// the name of the file that Add writes.
var clusterName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,39}$`)

// known lists every key that a site file may have. BurntSushi/toml matches
// keys whatever their case, so that `Cluster` would count beside `cluster`;
// this list is exact.
func known(k toml.Key) bool {
	switch len(k) {
	case 1:
		return k[0] == "format" || k[0] == "cluster" || k[0] == "issued" || k[0] == "kms" || k[0] == "class" || k[0] == "images"
	case 2:
		return k[0] == "kms" && (k[1] == "address" || k[1] == "ca") || k[0] == "images" && k[1] == "keys" || k[0] == "class" && (k[1] == Dedicated || k[1] == OnDemand)
	case 3:
		return k[0] == "class" && (k[1] == Dedicated || k[1] == OnDemand) && (k[2] == "recipients" || k[2] == "max_expiry")
	}
	return false
}

// Parse reads a site file and validates it. One with a signature that does not
// match is refused; who signed it says SignedBy.
func Parse(b []byte) (*File, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("site file: larger than %d bytes", MaxSize)
	}
	var f File
	md, err := toml.Decode(string(b), &f)
	if err != nil {
		// The error quotes the line, which has no secret in it.
		return nil, fmt.Errorf("site file: %w", err)
	}
	for _, k := range slices.Concat(md.Keys(), md.Undecoded()) {
		if !known(k) {
			return nil, fmt.Errorf("site file: unknown key %s", k)
		}
	}
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if err := f.readSignature(b); err != nil {
		return nil, fmt.Errorf("site file: %w", err)
	}
	return &f, nil
}

// Validate checks everything that can be checked without the network.
func (f *File) Validate() error {
	if f.Format != Format {
		return fmt.Errorf("site file: format %d, this program knows format %d", f.Format, Format)
	}
	if !clusterName.MatchString(f.Cluster) {
		return fmt.Errorf("site file: cluster %q is not of small letters, digits and \"_.-\", at most 40", f.Cluster)
	}
	if f.Issued != "" {
		if _, err := parseIssued(f.Issued); err != nil {
			return fmt.Errorf("site file: %w", err)
		}
	}
	if _, err := f.Client(0); err != nil {
		return fmt.Errorf("site file: %w", err)
	}
	if _, err := canonicalCA(f.KMS.CA); err != nil {
		return fmt.Errorf("site file: KMS CA: %w", err)
	}
	if len(f.Class) == 0 {
		return errors.New("site file: no class of nodes in it")
	}
	for _, name := range f.classes() {
		if name != Dedicated && name != OnDemand {
			return fmt.Errorf("site file: class %q is neither %s nor %s", name, Dedicated, OnDemand)
		}
		if err := checkRecipients(f.Class[name].Recipients); err != nil {
			return fmt.Errorf("site file: class %s: %w", name, err)
		}
		if most := f.Class[name].MaxExpiry; most != nil {
			if err := most.CheckMaxExpiry(); err != nil {
				return fmt.Errorf("site file: class %s: %w", name, err)
			}
		}
	}
	if f.Images != nil {
		if _, err := f.ImageKeys(); err != nil {
			return fmt.Errorf("site file: images: %w", err)
		}
	}
	return nil
}

// ImageKeys are the keys that images must be signed with, nil if the file does
// not say.
func (f *File) ImageKeys() (*image.Keys, error) {
	if f.Images == nil {
		return nil, nil
	}
	// Armor needs nothing of what would have to be escaped in Encode.
	if strings.ContainsFunc(f.Images.Keys, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~' || r == '"' || r == '\\') }) {
		return nil, errors.New("keys: a character that armor does not have")
	}
	return image.ParseKeys([]byte(f.Images.Keys))
}

func checkRecipients(list []string) error {
	if len(list) == 0 {
		return errors.New("no recipients in it")
	}
	seen := make(map[string]bool)
	for i, r := range list {
		if !strings.HasPrefix(r, "age1pq1") {
			return fmt.Errorf("recipient %d is not a hybrid post-quantum one (age1pq1…)", i+1)
		}
		p, err := age.ParseHybridRecipient(r)
		if err != nil {
			return fmt.Errorf("recipient %d: %w", i+1, err)
		}
		if p.String() != r {
			return fmt.Errorf("recipient %d is not in its canonical form", i+1)
		}
		if seen[r] {
			return fmt.Errorf("recipient %d is there twice", i+1)
		}
		seen[r] = true
	}
	return nil
}

// canonicalCA re-encodes the certificates and refuses anything around them.
// kms.New has parsed each certificate before.
func canonicalCA(ca string) (string, error) {
	var out strings.Builder
	for rest := []byte(ca); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return "", errors.New("something that is not a certificate")
		}
		if len(block.Headers) > 0 {
			return "", errors.New("a certificate with PEM headers")
		}
		out.Write(pem.EncodeToMemory(block))
	}
	if strings.TrimSpace(ca) != strings.TrimSpace(out.String()) {
		return "", errors.New("something between the certificates, or not in canonical PEM")
	}
	return out.String(), nil
}

func (f *File) classes() []string {
	var names []string
	for name := range f.Class {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// UserToken finds the user's own token for the file's KMS: home/kms-token counts if
// no other cluster's site file was added to home. See kms.UserToken.
func (f *File) UserToken(home string) (token secret.Bytes, source string, err error) {
	known, err := List(home)
	if err != nil {
		return secret.Bytes{}, "", err
	}
	return kms.UserToken(home, f.Cluster, f.KMS.Address, slices.Equal(known, []string{f.Cluster}))
}

// Client makes the KMS client that the file describes; 0 is kms.DefaultTimeout.
func (f *File) Client(timeout time.Duration) (*kms.Client, error) {
	return kms.New(kms.Config{Address: f.KMS.Address, CAPEM: []byte(f.KMS.CA), Timeout: timeout})
}

// AgeRecipients of a class of nodes.
func (f *File) AgeRecipients(class string) ([]age.Recipient, error) {
	c, ok := f.Class[class]
	if !ok {
		return nil, fmt.Errorf("cluster %s has no nodes of class %q, only %s", f.Cluster, class, strings.Join(f.classes(), " and "))
	}
	var out []age.Recipient
	for i, r := range c.Recipients {
		p, err := age.ParseHybridRecipient(r)
		if err != nil {
			return nil, fmt.Errorf("class %s: recipient %d: %w", class, i+1, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Encode returns the one canonical form of a valid file: keys in a fixed
// order, no comments. It is what the fingerprint is of and what Add stores.
// No character of a valid file needs escaping in TOML.
func (f *File) Encode() ([]byte, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	ca, err := canonicalCA(f.KMS.CA)
	if err != nil {
		return nil, fmt.Errorf("site file: KMS CA: %w", err)
	}
	c, err := f.Client(0)
	if err != nil {
		return nil, fmt.Errorf("site file: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "format = %d\ncluster = %q\n", f.Format, f.Cluster)
	if f.Issued != "" {
		fmt.Fprintf(&b, "issued = %q\n", f.Issued)
	}
	fmt.Fprintf(&b, "\n[kms]\naddress = %q\nca = \"\"\"\n%s\"\"\"\n", c.Address(), ca)
	for _, name := range f.classes() {
		fmt.Fprintf(&b, "\n[class.%s]\nrecipients = [\n", name)
		for _, r := range f.Class[name].Recipients {
			fmt.Fprintf(&b, "  %q,\n", r)
		}
		b.WriteString("]\n")
		if most := f.Class[name].MaxExpiry; most != nil {
			fmt.Fprintf(&b, "max_expiry = %q\n", *most)
		}
	}
	if f.Images != nil {
		fmt.Fprintf(&b, "\n[images]\nkeys = \"\"\"\n%s\n\"\"\"\n", strings.TrimSpace(f.Images.Keys))
	}
	return []byte(b.String()), nil
}

// Fingerprint is SHA256: and the unpadded base64 digest of Encode's bytes, the
// form in which OpenSSH shows a key's. It is "" for an invalid file. Of a signed
// file it is of the key, too: who compares it must not pin somebody else's key,
// who signed the same contents.
func (f *File) Fingerprint() string {
	b, err := f.Encode()
	if err != nil {
		return ""
	}
	if by := f.SignedBy(); by != "" {
		b = append(b, "signed by "+by+"\n"...) // no TOML, so no unsigned file's
	}
	sum := sha256.Sum256(b)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
