//go:build !amd64 || purego

package verity

func possible() []sideBySide { return nil }
func fastest() []sideBySide  { return nil }
