package handoff

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAFloodOfNonsenseDoesNotHarmASession(t *testing.T) {
	a, ended := admission(t), make(chan End, 1)
	socket, _ := serve(t, func(ctx context.Context, c *Conn) {
		if c.Request.Job != 7 || !c.Request.Batch() {
			t.Errorf("nonsense reached the handler: %+v", c.Request)
			return
		}
		if err := c.Admit(a); err != nil {
			t.Error(err)
		}
		e, err := c.WaitEnd(ctx)
		if err != nil {
			t.Error(err)
		}
		ended <- e
		c.Released()
	})
	session := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...)
	session.answer()
	before := countDescriptors(t)
	null := open(t, "/dev/null")
	rights := unix.UnixRights(slices.Repeat([]int{int(null.Fd())}, descriptorsMax)...)
	for i := range 300 {
		u := dial(t, socket)
		switch i % 3 {
		case 0:
			u.WriteMsgUnix(datagram(batch...), rights, nil)
		case 1:
			u.Write([]byte("\xff"))
		}
		u.Close()
	}
	session.end(0)
	if said := session.answer(); said != "verdict released\n" {
		t.Errorf("after the flood the end was answered by\n%s", said)
	}
	if e := <-ended; e.Died {
		t.Error("the session was taken for dead")
	}
	for wait := 0; countDescriptors(t) > before && wait < 500; wait++ {
		time.Sleep(20 * time.Millisecond)
	}
	if after := countDescriptors(t); after > before+1 { // null itself
		t.Errorf("%d descriptors were open, %d are", before, after)
	}
}

func TestNoMoreConnectionsThanTheBoundAreOpenAtOnce(t *testing.T) {
	var running, most atomic.Int64
	leave := make(chan struct{})
	socket, _ := serve(t, func(_ context.Context, c *Conn) {
		most.Store(max(most.Load(), running.Add(1)))
		<-leave
		running.Add(-1)
		c.Pass()
	})
	t.Cleanup(func() { close(leave) })
	step := with("step", "step=0")
	for range Open + 20 {
		if _, err := dial(t, socket).Write(step); err != nil {
			t.Fatal(err)
		}
	}
	late := dial(t, socket)
	if _, err := late.Write(step); err != nil {
		t.Fatal(err)
	}
	for wait := 0; running.Load() < Open && wait < 3000; wait++ {
		time.Sleep(20 * time.Millisecond)
	}
	late.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, err := late.Read(make([]byte, 100)); !os.IsTimeout(err) {
		t.Errorf("one more than the bound was answered: %d bytes, %v", n, err)
	}
	if running.Load() != Open || most.Load() != Open {
		t.Errorf("%d connections are open, %d were at most, the bound is %d", running.Load(), most.Load(), Open)
	}
	served := make(chan error, 1)
	late.SetReadDeadline(time.Now().Add(time.Minute))
	go func() { _, err := late.Read(make([]byte, 100)); served <- err }()
	for {
		select {
		case leave <- struct{}{}: // one goes, the next in the queue comes
		case err := <-served:
			if err != nil {
				t.Errorf("one that waited for its turn was never served: %v", err)
			}
			return
		}
	}
}

func TestAPeerThatSaysNothingIsHungUpOn(t *testing.T) {
	t.Parallel()
	socket, _ := serve(t, func(context.Context, *Conn) { t.Error("silence reached the handler") })
	u := dial(t, socket)
	t0 := time.Now()
	u.SetReadDeadline(t0.Add(10 * RequestTimeout))
	n, err := u.Read(make([]byte, 100))
	if n != 0 || os.IsTimeout(err) {
		t.Errorf("after %v: %d bytes, %v", time.Since(t0), n, err)
	}
	if took := time.Since(t0); took < RequestTimeout/2 {
		t.Errorf("hung up after %v", took)
	}
}
