//go:build !mutants

package unlock

func (o *opening) parameters() parameters { return o.pinned() }
