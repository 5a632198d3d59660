package lockdown

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// errDiffers is wrapped by what Check returns when the kernel's rules are not
// the lock's.
var errDiffers = errors.New("the packet filter is not as locked")

// Differs reports whether a Check error says that the rules were altered, as
// opposed to not readable.
func Differs(err error) bool { return errors.Is(err, errDiffers) }

// Check compares what is in the kernel with the lock: sets, chains, hooks,
// policies and every expression of every rule.
func (f Filter) Check(ctx context.Context, l Lock) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	want, err := l.compile()
	if err != nil {
		return fmt.Errorf("checking the network's lock: %w", err)
	}
	c, err := f.conn()
	if err != nil {
		return fmt.Errorf("checking the network's lock: %w", err)
	}
	if err := check(c, want); err != nil {
		return fmt.Errorf("checking the network's lock: %w", err)
	}
	return nil
}

// Exists reports whether there is a lock's table, whatever is in it.
func (f Filter) Exists() (bool, error) {
	c, err := f.conn()
	if err != nil {
		return false, fmt.Errorf("looking for the network's lock: %w", err)
	}
	t, err := find(c)
	if err != nil {
		return false, fmt.Errorf("looking for the network's lock: %w", err)
	}
	return t != nil, nil
}

// find returns the lock's table, nil if there is none.
func find(c *nftables.Conn) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName })
	if i < 0 {
		return nil, nil
	}
	return tables[i], nil
}

func check(c *nftables.Conn, want ruleset) error {
	differs := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", errDiffers, fmt.Sprintf(format, a...))
	}
	t, err := find(c)
	switch {
	case err != nil:
		return err
	case t == nil:
		return differs("table inet %s is gone", TableName)
	case t.Flags != 0: // NFT_TABLE_F_DORMANT switches a table off
		return differs("table inet %s has flags %#x", TableName, t.Flags)
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return fmt.Errorf("listing sets: %w", err)
	}
	if len(sets) != len(want.sets) {
		return differs("%d sets, not %d", len(sets), len(want.sets))
	}
	for _, w := range want.sets {
		j := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == w.name })
		if j < 0 {
			return differs("set %s is gone", w.name)
		}
		got, err := c.GetSetElements(sets[j])
		if err != nil {
			return fmt.Errorf("listing set %s: %w", w.name, err)
		}
		if !sameElements(got, w.elements()) {
			return differs("set %s has other elements", w.name)
		}
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("listing chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name != TableName })
	if len(chains) != len(want.chains) {
		return differs("%d chains, not %d", len(chains), len(want.chains))
	}
	for _, w := range want.chains {
		j := slices.IndexFunc(chains, func(ch *nftables.Chain) bool { return ch.Name == w.name })
		if j < 0 {
			return differs("chain %s is gone", w.name)
		}
		g, n := chains[j], w.nft(t)
		if g.Type != n.Type || !reflect.DeepEqual(g.Hooknum, n.Hooknum) || !reflect.DeepEqual(g.Priority, n.Priority) || !reflect.DeepEqual(g.Policy, n.Policy) {
			return differs("chain %s has another hook or policy", w.name)
		}
		rules, err := c.GetRules(t, g)
		if err != nil {
			return fmt.Errorf("listing chain %s: %w", w.name, err)
		}
		if len(rules) != len(w.rules) {
			return differs("chain %s has %d rules, not %d", w.name, len(rules), len(w.rules))
		}
		for k, r := range rules {
			if !sameRule(r, w.rules[k]) {
				return differs("rule %d of chain %s is another", k+1, w.name)
			}
		}
	}
	return nil
}

func sameElements(got, want []nftables.SetElement) bool {
	keys := func(es []nftables.SetElement) (out [][]byte) {
		for _, e := range es {
			out = append(out, e.Key)
		}
		slices.SortFunc(out, bytes.Compare)
		return out
	}
	return slices.EqualFunc(keys(got), keys(want), bytes.Equal)
}

// sameRule compares expressions, apart from what the kernel counts and from
// the number that a set had within its batch.
func sameRule(got *nftables.Rule, want rule) bool {
	if !bytes.Equal(got.UserData, comment(want.comment)) || len(got.Exprs) != len(want.exprs) {
		return false
	}
	for i, e := range got.Exprs {
		w := want.exprs[i]
		switch g := e.(type) {
		case *expr.Counter:
			if _, ok := w.(*expr.Counter); !ok {
				return false
			}
			continue
		case *expr.Lookup:
			l := *g
			l.SetID = 0
			e = &l
		}
		if !reflect.DeepEqual(e, w) {
			return false
		}
	}
	return true
}
