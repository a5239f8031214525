# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# From sources to build/{bin,lib,images}: one function per part. Sourced by
# ./bootstrap. Each part knows its inputs; an unchanged one costs a hash.

compiler_id() { { gcc --version; aarch64-linux-gnu-gcc --version; } | grep -i gcc; }

# --- Tools ----------------------------------------------------------------

make_tools() {
    local isa arch dir
    # meson: QEMU wants 1.5, Debian 12 has 1.0
    rm -rf "$build/tools/meson"
    unpack_deb "$(locked_file meson)" "$build/tools/meson.deb"
    mv "$build/tools/meson.deb/usr" "$build/tools/meson"
    rm -rf "$build/tools/meson.deb"
    # meson calls itself by its own path later; it finds its modules beside it.
    ln -s ../lib/python3/dist-packages/mesonbuild "$build/tools/meson/bin/mesonbuild"
    mkdir -p "$build/tools/bin"
    rm -f "$build/tools/bin/meson"
    cat > "$build/tools/bin/meson" <<MESON
#!/bin/sh
exec /usr/bin/python3 $build/tools/meson/bin/meson "\$@"
MESON
    chmod +x "$build/tools/bin/meson"
    "$build/tools/bin/meson" --version

    for isa in $isas; do
        arch=$(debian_arch "$isa")
        # musl, for what runs in a guest
        dir=$build/tools/musl/$isa
        rm -rf "$dir" "$dir.deb"
        unpack_deb "$(locked_file musl-dev "$arch")" "$dir.deb"
        mkdir -p "$dir"
        mv "$dir.deb/usr/include/$isa-linux-musl" "$dir/include"
        mv "$dir.deb/usr/lib/$isa-linux-musl" "$dir/lib"
        rm -rf "$dir.deb"
        "$top/scripts/make-guest-cc" "$isa" "$dir" "$build/obj/linux-headers/$isa" \
            "$build/tools/bin/chimera-guest-cc-$isa"
        # busybox, for the guest's image
        mkdir -p "$build/share/chimera/busybox"
        dpkg-deb --fsys-tarfile "$build/dl/$(locked_file busybox-static "$arch")" |
            tar -xO ./usr/bin/busybox > "$build/share/chimera/busybox/$isa"
        chmod +x "$build/share/chimera/busybox/$isa"
    done

    # Firmware, as qemu finds it beside its own prefix
    mkdir -p "$build/share/qemu"
    for dir in qboot.rom kvmvapic.bin linuxboot.bin linuxboot_dma.bin multiboot.bin \
               multiboot_dma.bin pvh.bin; do
        dpkg-deb --fsys-tarfile "$build/dl/$(locked_file qemu-system-data)" |
            tar -xO "./usr/share/qemu/$dir" > "$build/share/qemu/$dir"
    done
    for dir in bios.bin bios-256k.bin; do
        dpkg-deb --fsys-tarfile "$build/dl/$(locked_file seabios)" |
            tar -xO "./usr/share/seabios/$dir" > "$build/share/qemu/$dir"
    done
    # What virtio-net-pci asks for unless it is given romfile=
    dpkg-deb --fsys-tarfile "$build/dl/$(locked_file ipxe-qemu)" |
        tar -xO ./usr/share/qemu/efi-virtio.rom > "$build/share/qemu/efi-virtio.rom"
}

debian_arch() {
    case $1 in
    x86_64)  echo amd64 ;;
    aarch64) echo arm64 ;;
    esac
}

do_tools() {
    step tools "tools: meson, musl, busybox, firmware" \
        "$({ declare -f make_tools; hash_paths "$top/scripts/packages.lock" \
            "$top/qemu-patches/upstream.lock" "$top/scripts/make-guest-cc"; } | hash_text)" \
        make_tools
}

# --- Our own C: libdsm, launcher, tests, bench ----------------------------

host_options="-Dbuildtype=debugoptimized --prefix=$build --libdir=lib"

make_host() {
    local obj=$build/obj/host
    # shellcheck disable=SC2086 # a list of options
    if [ -e "$obj/build.ninja" ]; then
        meson setup --reconfigure "$obj" "$top" $host_options > /dev/null
    else
        rm -rf "$obj"
        meson setup "$obj" "$top" $host_options
    fi
    ninja -C "$obj" -j "$jobs"
    meson install -C "$obj" --no-rebuild --only-changed --quiet
}

host_inputs() {
    hash_paths "$top/meson.build" "$top/meson.options" "$top/dsm-backend" "$top/launcher" \
        "$top/tests" "$top/bench" "$top/guest-kernel/files/include" "$top/guest-kernel/model" \
        "$top/guest-user/include" "$top/isa-configs"
}

do_host() {
    step host "host: libdsm, launcher, tests" \
        "$({ declare -f make_host; compiler_id; echo "$host_options"; host_inputs; } | hash_text)" \
        make_host
}

# --- QEMU -----------------------------------------------------------------

qemu_targets="x86_64-softmmu,aarch64-softmmu"

qemu_options() {
    local list="--prefix=$build --libdir=lib --target-list=$qemu_targets
        --python=/usr/bin/python3 --disable-download --with-pkgversion=chimera
        --without-default-features --without-default-devices
        --with-devices-x86_64=chimera --with-devices-aarch64=chimera
        --enable-tcg --enable-kvm --enable-slirp --enable-capstone --enable-plugins
        --enable-fdt=system --enable-virtfs --enable-cap-ng --enable-attr --enable-gnutls
        --enable-avx2 --enable-trace-backends=log --disable-docs --disable-install-blobs
        --extra-ldflags=-Wl,-rpath,$build/lib"
    # The option exists once the hooks that add it are in the series.
    if grep -q "^option('dsm'" "$build/src/qemu/meson_options.txt"; then
        list="$list --enable-dsm"
    fi
    echo $list
}

# What makes configure run again; ninja sees all the rest by itself.
qemu_configure_hash() {
    {
        declare -f configure_qemu
        compiler_id
        qemu_options
        sha256sum < "$build/src/qemu/meson_options.txt"
        sha256sum < "$build/src/qemu/scripts/meson-buildoptions.sh"
        sha256sum < "$build/tools/bin/meson"
        hash_paths "$top/qemu-patches/files/configs"
    } | hash_text
}

configure_qemu() {
    local obj=$build/obj/qemu dir
    local meson_lib=$build/tools/meson/lib/python3/dist-packages
    mkdir -p "$obj"
    cd "$obj" || return
    # shellcheck disable=SC2046 # a list of options
    PYTHONPATH=$meson_lib PKG_CONFIG_PATH=$build/lib/pkgconfig \
        ../../src/qemu/configure --cc="ccache gcc" $(qemu_options)
    # configure makes a Python environment of its own; ninja needs meson there.
    for dir in pyvenv/lib/python3*/site-packages; do
        echo "$meson_lib" > "$dir/meson.pth"
    done
}

# The emulators, libqos' test program, and each qtest that stands in files/.
qemu_ninja_targets() {
    local test
    echo qemu-system-x86_64 qemu-system-aarch64 tests/qtest/qos-test
    for test in "$top"/qemu-patches/files/tests/qtest/*-test.c; do
        test=${test##*/}
        test=${test%.c}
        # A source of qos-test is no program of its own.
        if grep -q "^build tests/qtest/$test:" "$build/obj/qemu/build.ninja"; then
            echo "tests/qtest/$test"
        fi
    done
}

make_qemu() {
    local obj=$build/obj/qemu binary
    # build.ninja must be current before it is asked for targets.
    ninja -C "$obj" build.ninja
    # shellcheck disable=SC2046 # a list of targets
    ninja -C "$obj" -j "$jobs" $(qemu_ninja_targets)
    mkdir -p "$build/bin"
    for binary in qemu-system-x86_64 qemu-system-aarch64; do
        cmp -s "$obj/$binary" "$build/bin/$binary" && continue
        # A running emulator keeps the old file.
        cp "$obj/$binary" "$build/bin/$binary.new"
        mv "$build/bin/$binary.new" "$build/bin/$binary"
    done
}

do_qemu() {
    local hash
    do_tree qemu
    hash=$(qemu_configure_hash)
    step qemu-configure "qemu: configure" "$hash" configure_qemu
    hash=$({ declare -f make_qemu; echo "$hash"; hash_paths "$top/qemu-patches/files" "$build/include/dsm" \
        "$top/guest-kernel/files/include"; } | hash_text)
    ! newer_than qemu "$build/src/qemu" || rm -f "$build/stamp/qemu"
    step qemu "qemu: build" "$hash" make_qemu
}

# --- Guest kernels --------------------------------------------------------

# Each kernel is an ISA and, for those that are built on demand, a kind: its
# locks, and "-torture" for the one that does nothing but test them; or "debug".
kernel_kinds="ticket preemptable qspinlock-torture ticket-torture preemptable-torture debug"

# kmake ISA[-KIND] ARGS... - make in the kernel's tree, objects in build/obj.
kmake() {
    local kernel=$1 arch prefix
    shift
    case ${kernel%%-*} in
    x86_64)  arch=x86 prefix='' ;;
    aarch64) arch=arm64 prefix=aarch64-linux-gnu- ;;
    esac
    # Names and dates of the builder would make each build another.
    KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026' KBUILD_BUILD_USER=chimera \
        KBUILD_BUILD_HOST=chimera KBUILD_BUILD_VERSION=1 \
        make -s -C "$build/src/linux" O="$build/obj/linux-$kernel" ARCH="$arch" \
        CROSS_COMPILE="$prefix" CC="ccache ${prefix}gcc" HOSTCC="ccache gcc" LOCALVERSION= "$@"
}

kernel_fragments() {  # ISA[-KIND]
    local dir=$top/guest-kernel/configs isa=${1%%-*}
    case $1 in
    *-torture) echo "$dir/torture.config" "$dir/$isa.config" ;;
    *)
        echo "$dir/common.config" "$dir/$isa.config"
        # The driver, once the hook that names it is in the series.
        ! grep -q drivers/chimera/Kconfig "$build/src/linux/drivers/Kconfig" ||
            echo "$dir/chimera.config" ;;
    esac
    case $1 in
    *-ticket*) echo "$dir/ticket.config" ;;
    *-preemptable*) echo "$dir/ticket.config" "$dir/preemptable.config" ;;
    *-debug) echo "$dir/debug.config" ;;
    esac
}

# All that the fragments ask for, on top of nothing; what did not take effect
# is an error that names the symbol.
configure_kernel() {  # ISA[-KIND]
    local obj=$build/obj/linux-$1 line symbol bad=0 new
    mkdir -p "$obj"
    # shellcheck disable=SC2046 # a list of paths
    cat $(kernel_fragments "$1") > "$obj/wanted.config"
    # A later fragment overrides an earlier one, so the last line counts.
    new=$obj/.config.saved
    cp "$obj/.config" "$new" 2> /dev/null || : > "$new"
    kmake "$1" KCONFIG_ALLCONFIG="$obj/wanted.config" allnoconfig
    while read -r line; do
        case $line in
        CONFIG_*=*)
            symbol=${line%%=*}
            grep -qxF -- "$line" "$obj/.config" && continue ;;
        "# CONFIG_"*" is not set")
            symbol=${line#\# }
            symbol=${symbol%% *}
            grep -q "^$symbol=" "$obj/.config" || continue ;;
        *) continue ;;
        esac
        echo "error: $symbol: wanted '$line', the kernel decided" \
            "'$(grep "[ #]*${symbol}[= ]" "$obj/.config" || echo "no such symbol, or a dependency is missing")'"
        bad=1
    done < <(tac "$obj/wanted.config" | awk '
        match($0, /CONFIG_[A-Za-z0-9_]+/) {
            symbol = substr($0, RSTART, RLENGTH)
            if (!(symbol in seen)) { seen[symbol]; print }
        }' | grep -E '^CONFIG_|^# CONFIG_.* is not set')
    # The same configuration keeps its time, or make would look at every file.
    if cmp -s "$new" "$obj/.config"; then
        mv "$new" "$obj/.config"
    fi
    return $bad
}

make_kernel() {  # ISA[-KIND]
    local isa=${1%%-*} image name
    name=kernel${1#"$isa"}
    case $isa in
    x86_64)  image=arch/x86/boot/bzImage ;;
    aarch64) image=arch/arm64/boot/Image ;;
    esac
    configure_kernel "$1"
    kmake "$1" -j "$jobs" "${image##*/}"
    mkdir -p "$build/images/$isa"
    cp "$build/obj/linux-$1/$image" "$build/images/$isa/$name.new"
    mv "$build/images/$isa/$name.new" "$build/images/$isa/$name"
}

make_kernel_headers() {
    local isa
    for isa in $isas; do
        kmake "$isa" INSTALL_HDR_PATH="$build/obj/linux-headers/$isa" headers_install
    done
}

do_kernel_headers() {
    do_tree linux
    step kernel-headers "linux: headers for guest programs" \
        "$({ declare -f kmake; hooks_hash linux; hash_paths "$top/guest-kernel/files/include"; } | hash_text)" \
        make_kernel_headers
}

do_kernel() {  # [KIND]
    local isa kernel hash
    do_tree linux
    for isa in $isas; do
        kernel=$isa${1:+-$1}
        # shellcheck disable=SC2046 # a list of paths
        hash=$({ declare -f kmake make_kernel configure_kernel; compiler_id; hooks_hash linux
            hash_paths "$top/guest-kernel/files" \
            $(kernel_fragments "$kernel"); } | hash_text)
        ! newer_than "kernel-$kernel" "$build/src/linux" || rm -f "$build/stamp/kernel-$kernel"
        step "kernel-$kernel" "linux: $isa kernel${1:+, $1}" "$hash" make_kernel "$kernel"
    done
}

# --- Guest images ---------------------------------------------------------

make_image() {  # ISA
    mkdir -p "$build/images/$1"
    "$top/guest-user/mkinitramfs" "$1" "$build/share/chimera/busybox/$1" \
        "$build/images/$1/initramfs.cpio.gz"
}

do_image() {
    local isa hash
    for isa in $isas; do
        hash=$({ compiler_id; hash_paths "$top/guest-user" "$top/tests/guest" \
            "$top/bench/guest" "$top/guest-kernel/files/include" "$build/share/chimera/busybox/$isa" \
            "$build/tools/bin/chimera-guest-cc-$isa.specs" "$build/obj/linux-headers/$isa" \
            "$build/tools/musl/$isa/lib/libc.a"; } | hash_text)
        step "image-$isa" "guest: $isa image" "$hash" make_image "$isa"
    done
}

# --- Migratable programs: chimera-cc, its C library and run-time library -----

make_migrate() {
    local isa
    for isa in $isas; do
        mkdir -p "$build/tools/compiler-rt"
        dpkg-deb --fsys-tarfile "$build/dl/$(locked_file libclang-rt-19-dev "$(debian_arch "$isa")")" |
            tar -xO --wildcards "*/libclang_rt.builtins-$isa.a" > "$build/tools/compiler-rt/$isa.a"
    done
    "$top/migrate/build"
}

do_migrate() {
    do_source musl
    step migrate "migrate: chimera-cc and its libraries" \
        "$({ declare -f make_migrate; clang-19 --version; hash_paths "$top/bench/migrate" \
            "$top/guest-kernel/files/include/uapi" "$top/guest-user/src/noded-proto.h" \
            "$top"/tests/migrate/{c,machine} \
            "$top"/migrate/{build,flags,upstream.lock,driver,examples,include,musl,pass,rt}; } | hash_text)" \
        make_migrate
}

# --- All ------------------------------------------------------------------

do_build() {
    local part began=$SECONDS
    [ $# -gt 0 ] || set -- all
    for part; do
        case $part in
        all|src|qemu|kernel|host|image|migrate|tools) ;;
        kernel:*)
            case " $kernel_kinds " in
            *" ${part#kernel:} "*) ;;
            *) die "unknown kernel '${part#kernel:}' (allowed: ${kernel_kinds// /, })" ;;
            esac ;;
        *) die "unknown part '$part' (allowed: all, src, tools, host, qemu, kernel, kernel:KIND, image, migrate)" ;;
        esac
    done
    lock_build
    do_deps
    for part; do
        do_fetch
        do_tools
        case $part in
        all)    do_host; do_qemu; do_kernel_headers; do_kernel; do_image; do_migrate ;;
        src)    do_tree qemu; do_tree linux ;;
        host)   do_host ;;
        qemu)   do_host; do_qemu ;;
        kernel) do_kernel_headers; do_kernel ;;
        kernel:*) do_kernel "${part#kernel:}" ;;
        image)  do_kernel_headers; do_image ;;
        migrate) do_migrate ;;
        esac
    done
    unlock_build
    if [ "$steps_done" -eq 0 ]; then
        say "build: up to date"
    else
        say "build: done, $(duration $((SECONDS - began)))"
    fi
}
