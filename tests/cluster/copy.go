package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"
)

const (
	// agentLimit is the size up to which the agent is quicker than a connection over the bridge.
	agentLimit = 64 << 10
	// agentChunk is what one guest-file-write carries.
	agentChunk = 256 << 10
	// connectTimeout is how long a node may take to start bash and connect, before it counts as locked.
	connectTimeout = 5 * time.Second
)

// Put copies a local file to a node, as root, over the bridge; where the node's network does not let it
// (a locked node), slowly through the agent. The file appears whole under its name or not at all.
func (c *Cluster) Put(ctx context.Context, node, localPath, remotePath string, mode fs.FileMode) error {
	info, err := os.Stat(localPath)
	if err == nil && info.Size() > agentLimit {
		if err = c.putNetwork(ctx, node, localPath, remotePath, mode, info.Size()); err == nil {
			return nil
		}
	}
	if err == nil || errors.Is(err, errNoConnection) {
		err = c.PutByAgent(ctx, node, localPath, remotePath, mode)
	}
	if err != nil {
		return fmt.Errorf("put %s on %s: %w", remotePath, node, err)
	}
	return nil
}

var errNoConnection = errors.New("the node could not connect to the host")

// finish gives a received file its name. quote: paths may hold anything but a zero byte.
func finish(tmp, path string, mode fs.FileMode, size int64) string {
	return fmt.Sprintf("[ \"$(stat -c %%s %s)\" = %d ] && chmod %04o %[1]s && mv -f %[1]s %[4]s",
		quote(tmp), size, uint32(mode.Perm()), quote(path))
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (c *Cluster) putNetwork(ctx context.Context, node, localPath, remotePath string, mode fs.FileMode, size int64) error {
	f, err := os.Open(localPath)
	if err != nil {
		return err
	}
	defer f.Close()
	tmp := remotePath + ".part"
	_, err = c.overBridge(ctx, node, "cat <&3 > "+quote(tmp)+" && "+finish(tmp, remotePath, mode, size),
		func(conn net.Conn) error { _, err := io.Copy(conn, f); return err })
	return err
}

// overBridge runs a bash script on a node with a connection to the host on descriptor 3, which serve has the
// other end of. bash: the guest has no other client that starts as fast.
func (c *Cluster) overBridge(ctx context.Context, node, script string, serve func(net.Conn) error) (Result, error) {
	connected, done := make(chan struct{}), make(chan error, 1)
	port, token, withdraw, err := c.offer(func(conn net.Conn) {
		close(connected)
		done <- serve(conn)
	})
	if err != nil {
		return Result{}, err
	}
	defer withdraw()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	refused := time.AfterFunc(connectTimeout, func() {
		select {
		case <-connected:
		default:
			cancel(errNoConnection)
		}
	})
	defer refused.Stop()
	r, err := c.exec(ctx, node, []string{"/bin/bash", "-c", fmt.Sprintf(
		"exec 3<>/dev/tcp/%s/%d && echo %s >&3 || exit 97\n", hostAddress, port, token) + script}, nil)
	switch {
	case errors.Is(context.Cause(ctx), errNoConnection):
		return r, errNoConnection
	case err != nil:
		return r, err
	case r.Exit == 97:
		return r, errNoConnection
	case r.Exit != 0:
		return r, fmt.Errorf("exit status %d: %s", r.Exit, strings.TrimSpace(r.Stderr))
	}
	select {
	case err = <-done:
	case <-time.After(time.Minute):
		err = errors.New("the node did not end the transfer")
	}
	return r, err
}

// PutByAgent is Put for a node whose network is locked: about 500 kB/s under emulation.
func (c *Cluster) PutByAgent(ctx context.Context, node, localPath, remotePath string, mode fs.FileMode) error {
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(localPath)
	if err != nil {
		return err
	}
	tmp := remotePath + ".part"
	if len(data) <= agentLimit {
		_, err = c.Output(ctx, node, "cat > "+quote(tmp)+" && "+finish(tmp, remotePath, mode, int64(len(data))), Stdin(data))
		return err
	}
	var handle int64
	if err := g.agent.call("guest-file-open", map[string]any{"path": tmp, "mode": "w"}, &handle); err != nil {
		return err
	}
	for chunk := range bytesChunks(data, agentChunk) {
		if err = ctx.Err(); err != nil {
			break
		}
		if err = g.agent.call("guest-file-write", map[string]any{"handle": handle, "buf-b64": chunk}, nil); err != nil {
			break
		}
	}
	if cerr := g.agent.call("guest-file-close", map[string]any{"handle": handle}, nil); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	_, err = c.Output(ctx, node, finish(tmp, remotePath, mode, int64(len(data))))
	return err
}

func bytesChunks(data []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := min(size, len(data))
			if !yield(data[:n]) {
				return
			}
			data = data[n:]
		}
	}
}

// PutBytes is Put for data that is in no local file.
func (c *Cluster) PutBytes(ctx context.Context, node string, data []byte, remotePath string, mode fs.FileMode) error {
	f, err := os.CreateTemp(c.dir, "put-")
	if err != nil {
		return fmt.Errorf("put %s on %s: %w", remotePath, node, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("put %s on %s: %w", remotePath, node, err)
	}
	return c.Put(ctx, node, f.Name(), remotePath, mode)
}

// Get copies a file from a node to a local path, as root, over the bridge or, where that does not work and for
// small files, through the agent.
func (c *Cluster) Get(ctx context.Context, node, remotePath, localPath string) error {
	path := quote(remotePath)
	r, err := c.Run(ctx, node, fmt.Sprintf("s=$(stat -Lc %%s %s) || exit 1; [ $s -le %d ] || exit 98; cat %[1]s", path, agentLimit))
	out := r.Stdout
	switch {
	case err == nil && r.Exit == 98:
		// On a busy machine the first tries may be too slow; what the agent prints is cut off at 16 MiB.
		for range 3 {
			if err = c.getNetwork(ctx, node, remotePath, localPath); !errors.Is(err, errNoConnection) {
				break
			}
		}
		if !errors.Is(err, errNoConnection) {
			break
		}
		if out, err = c.Output(ctx, node, "cat "+path); err == nil {
			err = os.WriteFile(localPath, []byte(out), 0o644)
		}
	case err == nil && r.Exit != 0:
		err = errors.New(strings.TrimSpace(r.Stderr))
	case err == nil:
		err = os.WriteFile(localPath, []byte(out), 0o644)
	}
	if err != nil {
		return fmt.Errorf("get %s from %s: %w", remotePath, node, err)
	}
	return nil
}

func (c *Cluster) getNetwork(ctx context.Context, node, remotePath, localPath string) error {
	var got bytes.Buffer
	r, err := c.overBridge(ctx, node, "stat -Lc %s "+quote(remotePath)+" && cat "+quote(remotePath)+" >&3",
		func(conn net.Conn) error { _, err := io.Copy(&got, conn); return err })
	if err != nil {
		return err
	}
	if want := strings.TrimSpace(r.Stdout); fmt.Sprint(got.Len()) != want {
		return fmt.Errorf("got %d bytes of %s", got.Len(), want)
	}
	return os.WriteFile(localPath, got.Bytes(), 0o644)
}

// offer lets one guest connection that names the returned token be served. The listener lives on the
// bridge: the guests reach it and nothing else of the host.
func (c *Cluster) offer(serve func(net.Conn)) (port int, token string, cancel func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transfer == nil {
		if c.transfer, err = listenInside(c.boot.ns); err != nil {
			return 0, "", nil, err
		}
		go c.serveTransfers(c.transfer)
	}
	token = randomID()
	c.waiting[token] = serve
	cancel = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, token)
	}
	return c.transfer.Addr().(*net.TCPAddr).Port, token, cancel, nil
}

func (c *Cluster) serveTransfers(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(DefaultTimeout))
			in := bufio.NewReaderSize(conn, 64)
			line, err := in.ReadSlice('\n')
			if err != nil {
				return
			}
			c.mu.Lock()
			serve := c.waiting[strings.TrimSpace(string(line))]
			delete(c.waiting, strings.TrimSpace(string(line)))
			c.mu.Unlock()
			if serve != nil {
				serve(bufferedConn{conn, in})
			}
		}()
	}
}

// bufferedConn does not lose what was read beyond the token's line.
type bufferedConn struct {
	net.Conn
	in io.Reader
}

func (b bufferedConn) Read(p []byte) (int, error) { return b.in.Read(p) }
