package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"cloister/client/advice"
	"cloister/secret"
	"cloister/secret/prompt"

	"golang.org/x/term"
)

// haveTerminal reports whether somebody can be asked.
func haveTerminal() bool { return prompt.Terminal(os.Stdin) }

// askTerminal asks on the terminal behind standard input.
func askTerminal(question, next string) (secret.Bytes, error) {
	if !haveTerminal() {
		return secret.Bytes{}, advice.Refuse(next, "a passphrase is needed, and there is no terminal to ask for it")
	}
	b, err := prompt.Ask(os.Stdin, question)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the passphrase: %w", err)
	}
	return b, nil
}

// progress draws a line on a terminal, and nothing elsewhere.
type progress struct {
	w     io.Writer
	what  string
	start time.Time
	last  time.Time
	drawn bool
}

// redraw is how often the line changes.
const redraw = 200 * time.Millisecond

// newProgress returns nil, on which all methods do nothing, unless w is a
// terminal.
func newProgress(w io.Writer, what string) *progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &progress{w: w, what: what, start: time.Now()}
}

func (p *progress) step(done, total int64) {
	if p == nil || time.Since(p.last) < redraw {
		return
	}
	p.last = time.Now()
	speed := float64(done) / max(time.Since(p.start).Seconds(), 0.001)
	much := size(done) // of a stream's, nobody knows how much will come
	if total > 0 {
		much = fmt.Sprintf("%3d %%  %s of %s", min(100, done*100/total), size(done), size(total))
	}
	fmt.Fprintf(p.w, "\r%s %s, %s/s\x1b[K", p.what, much, size(int64(speed)))
	p.drawn = true
}

// clear takes the line away.
func (p *progress) clear() {
	if p != nil && p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// size prints bytes for people, in powers of 1024.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
