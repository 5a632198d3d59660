package lockdown

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// A Filter is a network namespace's packet filter. The zero value is the
// caller's own namespace. Needs CAP_NET_ADMIN there.
type Filter struct {
	// NetNS is a descriptor of another network namespace, 0 for one's own.
	NetNS int
}

func (f Filter) conn() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(f.NetNS))
	if err != nil {
		return nil, fmt.Errorf("reaching nf_tables: %w", err)
	}
	return c, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// Apply makes the kernel's rules those of the lock, in one transaction, from
// whatever was there; then it forgets the connections that were tracked
// before and closes those of this node's TCP sockets that the lock has no
// place for. On an error the filter is as before or already locked, never
// open in part.
func (f Filter) Apply(ctx context.Context, l Lock) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rs, err := l.compile()
	if err != nil {
		return fmt.Errorf("locking the network: %w", err)
	}
	if err := f.replace(rs); err != nil {
		return fmt.Errorf("locking the network: table inet %s: %w", TableName, err)
	}
	if err := f.forgetConnections(); err != nil {
		return fmt.Errorf("locking the network: %w", err)
	}
	if err := f.endConnections(ctx, l); err != nil {
		return fmt.Errorf("locking the network: %w", err)
	}
	return nil
}

func (f Filter) replace(rs ruleset) error {
	c, err := f.conn()
	if err != nil {
		return err
	}
	t := table()
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	ids := map[string]uint32{}
	for _, s := range rs.sets {
		set := &nftables.Set{Table: t, Name: s.name, KeyType: s.keyType()}
		if err := c.AddSet(set, s.elements()); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
		ids[s.name] = set.ID
	}
	for _, ch := range rs.chains {
		chain := c.AddChain(ch.nft(t))
		for _, r := range ch.rules {
			for _, e := range r.exprs {
				if l, ok := e.(*expr.Lookup); ok {
					l.SetID = ids[l.SetName]
				}
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.exprs, UserData: comment(r.comment)})
		}
	}
	return c.Flush()
}

func (ch chain) nft(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{
		Name: ch.name, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: ch.hook, Priority: nftables.ChainPriorityRef(priority), Policy: &ch.policy,
	}
}

func (s addressSet) keyType() nftables.SetDatatype {
	if s.addrs[0].Is4() {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

func (s addressSet) elements() (out []nftables.SetElement) {
	for _, a := range s.addrs {
		out = append(out, nftables.SetElement{Key: a.AsSlice()})
	}
	return out
}

// forgetConnections empties the connection tracking table: an entry from
// before the lock must not make a packet "established".
func (f Filter) forgetConnections() error {
	h := &netlink.Handle{}
	if f.NetNS != 0 {
		var err error
		if h, err = netlink.NewHandleAt(netns.NsHandle(f.NetNS)); err != nil {
			return fmt.Errorf("reaching connection tracking: %w", err)
		}
		defer h.Close()
	}
	if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("emptying the connection tracking table: %w", err)
	}
	return nil
}

// Release takes the lock's table away, and nothing else. It is no error if
// there is none.
func (f Filter) Release(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := f.conn()
	if err != nil {
		return fmt.Errorf("releasing the network: %w", err)
	}
	t := table()
	c.AddTable(t)
	c.DelTable(t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("releasing the network: table inet %s: %w", TableName, err)
	}
	return nil
}

// Drops are the packets that each chain dropped since the lock was applied.
type Drops struct{ In, Out, Forward uint64 }

// Drops reads the counters of the lock's table.
func (f Filter) Drops(ctx context.Context) (Drops, error) {
	var d Drops
	if err := ctx.Err(); err != nil {
		return d, err
	}
	c, err := f.conn()
	if err != nil {
		return d, fmt.Errorf("reading drop counters: %w", err)
	}
	for name, n := range map[string]*uint64{"input": &d.In, "output": &d.Out, "forward": &d.Forward} {
		rules, err := c.GetRules(table(), &nftables.Chain{Name: name})
		if err != nil {
			return Drops{}, fmt.Errorf("reading drop counters of chain %s: %w", name, err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if k, ok := e.(*expr.Counter); ok && bytes.Equal(r.UserData, comment(droppedComment)) {
					*n += k.Packets
				}
			}
		}
	}
	return d, nil
}
