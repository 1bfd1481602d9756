# SPDX-License-Identifier: GPL-2.0-only
# build.sh OBJECTS SRCARCH CC: a vmlinux with a build-id, or a fault: `fake-linux-fault`, if PATH has it, prints its
# name and a name for a process (tests/fakes/linux.py); builds see nothing else of a test's environment
set -e
read -r FAKE_LINUX FAKE_LINUX_NAME <<<"$(command -v fake-linux-fault >/dev/null && fake-linux-fault)" || true
out=$1 cc=$3
flags="-nostdlib -static -Wl,--build-id -Wl,-e,lock_vma_under_rcu"
config="-DCONFIG=\"$(cksum <"$out/.config" | tr ' ' -)\""
banner="-DBANNER=\"($KBUILD_BUILD_USER@$KBUILD_BUILD_HOST)#$KBUILD_BUILD_VERSION$KBUILD_BUILD_TIMESTAMP\""

case $FAKE_LINUX in
error) $cc -c -o "$out/broken.o" mm/broken.c ;;
killed)
	# the compiler proper is killed: its driver says so
	printf '#!/bin/sh\nkill -KILL $$\n' >"$out/cc1"
	chmod +x "$out/cc1"
	$cc -B"$out/" -c -o "$out/x.o" mm/mmap_lock.c
	;;
full) cat mm/mmap_lock.c >/dev/full ;;
slow) exec -a "$FAKE_LINUX_NAME" sleep 300 ;;
altered) echo CONFIG_CHILD=y >>"$out/.config" ;;
esac

mkdir -p "$out/include/config"
echo 7.2.1 >"$out/include/config/kernel.release"
printf 'const char config[] = CONFIG, banner[] = BANNER;\n' >"$out/config.c"

# as make does it: what is newer than its source is finished
objects=
for source in $(find mm/mmap_lock.c fs -name '*.c' 2>/dev/null | LC_ALL=C sort); do
	object=$out/$(basename "$source" .c).o
	objects="$objects $object"
	[ ! "$object" -nt "$source" ] || continue
	echo "  CC      $source"
	if [ "$FAKE_LINUX" = torn ]; then
		# half an object, and nobody left to delete it
		echo torn >"$object"
		kill -KILL $$
	fi
	$cc -c -o "$object" "$source"
done
$cc $flags "$config" "$banner" -o "$out/vmlinux" "$out/config.c" $objects
nm "$out/vmlinux" >"$out/System.map"
