package noded

import (
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Systemd is what a Daemon asks of the service manager.
type Systemd interface {
	// Status shows one line in systemctl status.
	Status(text string)
	// Keep puts a descriptor into the store under a name; it comes back as
	// one of the files of the next start.
	Keep(name string, f *os.File) error
	// Alive feeds systemd's watchdog.
	Alive()
	// Forget takes what is kept under a name out of the store.
	Forget(name string) error
}

// Notifier speaks sd_notify(3) over $NOTIFY_SOCKET.
type Notifier struct{}

// Ready tells that launches are answered from now on.
func (Notifier) Ready() error {
	sent, err := daemon.SdNotify(false, daemon.SdNotifyReady)
	if err == nil && !sent {
		return nil // started by hand
	}
	return err
}

// Status implements Systemd. A status line that is lost harms nobody.
func (Notifier) Status(text string) {
	_, _ = daemon.SdNotify(false, "STATUS="+strings.ReplaceAll(text, "\n", " "))
}

// Alive implements Systemd.
func (Notifier) Alive() { _, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) }

// Keep implements Systemd. go-systemd has no call that passes descriptors.
func (Notifier) Keep(name string, f *os.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil // started by hand: nothing survives a restart
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("keeping a descriptor in systemd's store: %w", err)
	}
	defer unix.Close(s)
	// FDPOLL=0: systemd would drop a lifeline whose peer died, and with it
	// the next noded's way to notice. SockaddrUnix takes "@" as systemd means it.
	message := []byte("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name)
	if err := unix.Sendmsg(s, message, unix.UnixRights(int(f.Fd())), &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("keeping a descriptor in systemd's store: %w", err)
	}
	return nil
}

// Forget implements Systemd.
func (Notifier) Forget(name string) error {
	if _, err := daemon.SdNotify(false, "FDSTOREREMOVE=1\nFDNAME="+name); err != nil {
		return fmt.Errorf("taking a descriptor out of systemd's store: %w", err)
	}
	return nil
}
