#!/usr/bin/env bash
# Runs the tests on a Python that is built for musl, the C library of Alpine Linux; the arguments are pytest's. The first
# run builds that Python, in some minutes: it needs Debian (trixie) and root, for apt. MUSL_PYTHON names its folder,
# ~/.cache/shoal-musl by default.
#
#     CPython, and the libraries that it needs    from Debian's sources, by Debian's musl-gcc
#     packages                                    wheels for musl, which this system's pip fetches; lz4 is compiled
#
# Without scikit-learn, of which there are no such wheels, and without ssl, which pandas needs to write Parquet. What this
# does not show: the rest of Alpine.
set -euo pipefail

SOURCES=(zlib libffi bzip2 xz-utils sqlite3 python3.13)
# The extra "test" without what has no wheels, and the packages that build shoal and lz4.
PACKAGES=(backports.zstd cloudpickle editables fsspec hatchling hypothesis isal joblib==1.6.0 loky mypy numpy pandas psutil
    pkgconfig pyarrow pytest pytest-asyncio pytest-run-parallel pytest-timeout pytest-xdist rich ruff scipy
    setuptools setuptools-scm shtab tenacity threadpoolctl tqdm xxhash zlib-ng)
ROOT=$(cd "$(dirname "$0")/.." && pwd)
. "$ROOT/scripts/_made_once.sh"
HOME_OF=${MUSL_PYTHON:-$HOME/.cache/shoal-musl}
PREFIX=$HOME_OF/python

fetch_sources() {
    download_sources "${SOURCES[@]}"
    for archive in *.orig.tar.*z; do tar xf "$archive"; done
}

# musl-gcc does not look for the kernel's headers, and names the folders of this system's C library as its own.
make_compiler() {
    mkdir -p "$PREFIX/include" "$PREFIX/lib"
    ln -sfn /usr/include/linux /usr/include/asm-generic "$PREFIX/include"
    ln -sfn /usr/include/x86_64-linux-gnu/asm "$PREFIX/include"
    printf '#!/bin/sh\n[ "$1" = --print-multiarch ] || exec musl-gcc "$@"\n' >cc
    chmod +x cc
    export CC=$PWD/cc CFLAGS="-O2 -fPIC -I$PREFIX/include" LDFLAGS="-L$PREFIX/lib"
}

build_libraries() {
    (cd zlib-*/ && ./configure --static --prefix="$PREFIX" && make install)
    (cd libffi-*/ && ./autogen.sh && ./configure --disable-shared --with-pic --disable-docs --prefix="$PREFIX" &&
        make install)
    (cd bzip2-*/ && make libbz2.a CC="$CC" CFLAGS="$CFLAGS" && cp libbz2.a "$PREFIX/lib" && cp bzlib.h "$PREFIX/include")
    (cd xz-*/ && ./configure --disable-shared --with-pic --disable-{xz,xzdec,lzmadec,lzmainfo,scripts,doc,nls} \
        --prefix="$PREFIX" && make install)
    (cd sqlite3-*/ && ./configure --disable-{shared,readline,tcl,load-extension} --with-pic && make libsqlite3.la sqlite3.h &&
        cp .libs/libsqlite3.a "$PREFIX/lib" && cp sqlite3.h "$PREFIX/include")
}

build_python() {
    local name
    export PKG_CONFIG_LIBDIR=$PREFIX/lib/pkgconfig  # it would find this system's libraries
    for name in LIBSQLITE3:-lsqlite3\ -lm LIBLZMA:-llzma BZIP2:-lbz2 LIBFFI:-lffi ZLIB:-lz; do
        export "${name%%:*}_CFLAGS=-I$PREFIX/include" "${name%%:*}_LIBS=-L$PREFIX/lib ${name#*:}"
    done
    (cd Python-*/ && ./configure --prefix="$PREFIX" --without-ensurepip --disable-test-modules \
        CPPFLAGS="-I$PREFIX/include" && make -j2 && make install)
}

make_python() {
    local work
    work=$(mktemp -d)
    chmod 755 "$work"  # apt fetches as another user
    apt-get -q update
    apt-get install -qy --no-install-recommends musl-tools make autoconf automake libtool libltdl-dev tclsh xz-utils texinfo
    rm -rf "$PREFIX"
    (cd "$work" && fetch_sources && make_compiler && build_libraries && build_python)
    rm -rf "$work"
}

install_packages() {
    local wheels=$HOME_OF/wheels pip=(python3 -m pip --disable-pip-version-check)
    local install=("${pip[@]}" --python "$PREFIX/bin/python3" install -q)
    "${pip[@]}" download -q -d "$wheels" --python-version 3.13 --implementation cp --only-binary=:all: \
        --platform musllinux_1_2_x86_64 --platform musllinux_1_1_x86_64 "${PACKAGES[@]}"
    "${install[@]}" --no-index --find-links "$wheels" "${PACKAGES[@]}"
    "${pip[@]}" download -q -d "$wheels" --no-deps --no-binary lz4 lz4
    CC=musl-gcc LDSHARED="musl-gcc -shared" "${install[@]}" --no-deps --no-build-isolation "$wheels"/lz4-*.tar.gz
    "${install[@]}" --no-deps --no-build-isolation -e "$ROOT"
}

make_once "$HOME_OF" make_python install_packages
cd "$ROOT"
PYTHONPATH=$ROOT/src exec "$PREFIX/bin/python3" -m pytest -n 2 -p no:cacheprovider "$@"
