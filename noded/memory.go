package noded

import "runtime/debug"

// overwriteFreed collects what a session left in this process: the manifest with its tokens, the script, the
// KMS's answers. They were strings and library buffers, which nobody can wipe. FreeOSMemory runs the collector
// to its end and gives free pages back to the kernel; the unit's GODEBUG has clobberfree=1 (package runtime), which makes
// the collector overwrite the objects that shared a page with living ones. Two rounds: what a finalizer holds
// is free only at the second.
func overwriteFreed() {
	debug.FreeOSMemory()
	debug.FreeOSMemory()
}
