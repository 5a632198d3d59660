package unlock

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAVolumeThatDoesNotCloseKeepsNoOtherOpen(t *testing.T) {
	const s = "0123456789abcdef"
	names := []string{
		name(s, 0, authenc), name(s, 1, authenc), name(s, 2, crypt),
		name(s, 0, tags), name(s, 1, tags), name(s, 2, verity), "somebody's",
	}
	stuck, free, begun := names[0], make(chan struct{}), make(chan string, len(names))
	fault := errors.New("no such device")
	done := make(chan closing, 1)
	go func() {
		done <- closeAll(names, func(name string) (end, time.Duration, error) {
			begun <- name
			switch name {
			case stuck:
				<-free
				return forced, time.Second, nil
			case names[1]:
				return closed, 2 * time.Second, fault
			case names[2]:
				return adrift, 3 * time.Second, nil
			}
			return closed, 4 * time.Second, nil
		})
	}()
	var order []string
	next := func() string {
		select {
		case n := <-begun:
			order = append(order, n)
			return n
		case <-time.After(10 * time.Second):
			close(free)
			t.Fatalf("after %q none is closed", order)
			return ""
		}
	}
	for len(order) < len(names)-1 { // all but what is below the one that is stuck
		if n := next(); n == name(s, 0, tags) {
			t.Error("a volume's lower mapping was closed before its upper one")
		}
	}
	select {
	case c := <-done:
		t.Errorf("ended with a volume open: %+v", c)
	default:
	}
	close(free)
	if n := next(); n != name(s, 0, tags) {
		t.Errorf("in the end %s", n)
	}
	for _, index := range []int{1, 2} {
		prefix := namePrefix + s + "-" + string(rune('0'+index)) + "-"
		mine := slices.DeleteFunc(slices.Clone(order), func(n string) bool { return !strings.HasPrefix(n, prefix) })
		if want := []string{names[index], names[index+3]}; !slices.Equal(mine, want) {
			t.Errorf("volume %d: closed %q, want %q", index, mine, want)
		}
	}
	c := <-done
	if !slices.Equal(c.reply.Forced, names[:1]) || !slices.Equal(c.reply.Adrift, names[2:3]) || !errors.Is(c.err, fault) || c.reply.Flushed != 7*time.Second {
		t.Errorf("%+v", c)
	}
}
