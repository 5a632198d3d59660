#!/bin/bash
# Build the root file system of the demo's analysis image, as small as R with
# the survival package and a PNG device can be, and the demo's data set.
#
#   build.sh WORK     run as root; WORK holds analysis.R and nothing else; the
#                     Debian mirror is that of this machine's own apt sources
#
# Results: WORK/analysis.squashfs, WORK/lung.csv. Debian's packages are
# installed into WORK/full; what the analysis needs is copied from there into
# WORK/root: chosen parts of R, and the shared libraries that they ask for.
set -euo pipefail
export LC_ALL=C
W=$1
SUITE=trixie
FULL=$W/full ROOT=$W/root LIB=usr/lib/x86_64-linux-gnu
# The date of every file. Font caches and the file system are the same in
# every build from the same packages.
DATE=1735689600 # 2025-01-01

mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } |
  grep -v '^ *#' | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ')
[ -n "$mirror" ] || { echo "no Debian mirror in /etc/apt/sources*" >&2; exit 1; }

mmdebstrap --quiet --variant=essential \
  --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --include=r-base-core,r-cran-survival "$SUITE" "$FULL" "deb $mirror $SUITE main"

# The data set, from the survival package's own copy.
chroot "$FULL" Rscript --vanilla -e \
  'write.csv(survival::lung, "/tmp/lung.csv", row.names = FALSE, quote = FALSE)'
mv "$FULL/tmp/lung.csv" "$W/lung.csv"

# Directories, also those that a container runtime mounts over.
mkdir -p "$ROOT"/{data,dev,etc,home,opt/analysis,proc,results,root,run,srv,sys,tmp,mnt,var/tmp,var/cache}
mkdir -p "$ROOT"/usr/{bin,share/fonts,lib64,local/lib,local/bin} "$ROOT/$LIB" "$ROOT"/.singularity.d/{actions,env,libs}
chmod 1777 "$ROOT"/{tmp,var/tmp}
ln -s usr/bin "$ROOT/bin"; ln -s usr/bin "$ROOT/sbin"; ln -s bin "$ROOT/usr/sbin"
ln -s usr/lib "$ROOT/lib"; ln -s usr/lib64 "$ROOT/lib64"
ln -s "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$ROOT/usr/lib64/ld-linux-x86-64.so.2"

# A shell and the few commands that R's start script and small job scripts use.
for c in bash sed uname rm which ls cat cp mv mkdir echo printf env true false test expr \
  dirname basename id sleep head tail wc grep; do # sort and sha256sum would need libcrypto
  cp -L "$FULL/usr/bin/$c" "$ROOT/usr/bin/$c"
done
ln -s bash "$ROOT/usr/bin/sh"

# R without manuals, translations, Tcl/Tk, headers and tests. `tools` and
# `compiler` stay: the interpreter itself loads them.
mkdir -p "$ROOT"/usr/lib/R/{bin/exec,lib,library,modules} "$ROOT"/usr/share/R/share
cp -a "$FULL"/usr/lib/R/bin/R "$FULL"/usr/lib/R/bin/Rscript "$ROOT/usr/lib/R/bin/"
cp -aL "$FULL/usr/lib/R/bin/exec/R" "$ROOT/usr/lib/R/bin/exec/R"
cp -a "$FULL/usr/lib/R/etc" "$ROOT/usr/lib/R/etc"; cp -a "$FULL/etc/R" "$ROOT/etc/R" # links and their targets
cp -aL "$FULL"/usr/lib/R/lib/*.so "$ROOT/usr/lib/R/lib/"
cp -aL "$FULL"/usr/lib/R/modules/{lapack,R_X11}.so "$ROOT/usr/lib/R/modules/" # png() loads R_X11, also without X
ln -s ../lib/R/bin/R "$ROOT/usr/bin/R"; ln -s ../lib/R/bin/Rscript "$ROOT/usr/bin/Rscript"
for p in base compiler datasets grDevices graphics grid lattice Matrix methods splines stats survival tools utils; do
  cp -a "$FULL/usr/lib/R/library/$p" "$ROOT/usr/lib/R/library/$p"
  (cd "$ROOT/usr/lib/R/library/$p" && rm -rf help html doc demo tests po include external scripts test-tools* \
    NEWS* CITATION COPYRIGHTS INDEX LICENCE misc tangle Sweave)
done
rm -rf "$ROOT"/usr/lib/R/library/{survival,Matrix,lattice}/data "$ROOT"/usr/lib/R/library/grDevices/{afm,fonts} # PDF's

# The plot's fonts, one family.
mkdir -p "$ROOT/usr/share/fonts/truetype" "$ROOT/usr/share/fontconfig" "$ROOT/var/cache/fontconfig"
cp "$FULL"/usr/share/fonts/truetype/dejavu/DejaVuSans{,-Bold}.ttf "$ROOT/usr/share/fonts/truetype/"
cp -a "$FULL/etc/fonts" "$ROOT/etc/fonts"
cp -a "$FULL/usr/share/fontconfig/conf.avail" "$ROOT/usr/share/fontconfig/"

# Every shared library that anything above asks for, under the name it asks by.
find "$ROOT/usr" -type f \( -name '*.so' -o -perm -u+x \) -printf '/usr/%P\n' > "$FULL/tmp/asking"
chroot "$FULL" sh -c 'while read -r f; do LD_LIBRARY_PATH=/usr/lib/R/lib ldd "$f" 2>/dev/null; done < /tmp/asking' |
  grep -oE '(=> |^[[:space:]]*)/[^ ]+' | grep -oE '/.*' | grep -v ^/usr/lib/R/ | sort -u > "$FULL/tmp/libraries"
chroot "$FULL" sh -c 'while read -r f; do echo "$(basename "$f") $(readlink -f "$f")"; done < /tmp/libraries' |
  while read -r name file; do cp "$FULL$file" "$ROOT/$LIB/$name"; done
mkdir -p "$ROOT/usr/lib/locale" && cp -a "$FULL/usr/lib/locale/C.utf8" "$ROOT/usr/lib/locale/"

# What programs look up by name.
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' > "$ROOT/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' > "$ROOT/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files\n' > "$ROOT/etc/nsswitch.conf"
printf '127.0.0.1 localhost\n' > "$ROOT/etc/hosts"
cp "$FULL/etc/os-release" "$ROOT/etc/os-release"
: > "$ROOT/etc/resolv.conf"; : > "$ROOT/etc/localtime"
cp "$FULL/usr/bin/fc-cache" "$ROOT/usr/bin/"

install -m 644 "$W/analysis.R" "$ROOT/opt/analysis/analysis.R"
ldconfig -r "$ROOT"
# Font caches are valid for the directories' dates: dates first, caches next.
find "$ROOT" -exec touch -h -d "@$DATE" {} +
chroot "$ROOT" fc-cache -s
rm "$ROOT/usr/bin/fc-cache"

# zstd-9 makes 50 MiB in 2.5 s of two cores; zstd-19 makes 45 MiB in 50 s, gzip
# 50 MiB that unpack slower, lz4 57 MiB that unpack twice as fast.
mksquashfs "$ROOT" "$W/analysis.squashfs" -quiet -no-progress -noappend -no-xattrs -all-root \
  -all-time "$DATE" -mkfs-time "$DATE" -comp zstd -Xcompression-level 9 -b 128K
