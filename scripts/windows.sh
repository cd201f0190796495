#!/usr/bin/env bash
# Runs the tests on a Windows Python under Wine; the arguments are pytest's. The first run makes that Python, in some
# minutes: it needs Debian (trixie) and root, for apt. WINDOWS_PYTHON names its folder, ~/.cache/shoal-windows by default.
#
#     python313.dll, DLLs/    Windows' own: the wheel of panda3d contains them, for the programs that it packs
#     Lib/                    from Debian's source of the same release, since it is the same for all systems
#     python.exe              built here: it calls Py_Main
#     python3.dll             built here: it passes the names of the stable ABI on to python313.dll
#     ucrtbase.dll            built here: Wine's, with the complex functions of C99, which Wine 10 lacks and numpy needs
#
# What Wine does not show: whether folders can be renamed while files in them are open, when a file was last read, links,
# consoles, virus scanners, speed.
set -euo pipefail

PANDA3D=1.10.16  # contains CPython 3.13.11
WINE=/usr/lib/wine/wine64
ROOT=$(cd "$(dirname "$0")/.." && pwd)
. "$ROOT/scripts/_made_once.sh"
HOME_OF=${WINDOWS_PYTHON:-$HOME/.cache/shoal-windows}
WINDOWS=$HOME_OF/windows
export WINEPREFIX=$HOME_OF/prefix WINEDEBUG=-all
export WINEDLLOVERRIDES='ucrtbase,ucrtwine=n,b;winedbg.exe,mscoree,mshtml='
unset DISPLAY WAYLAND_DISPLAY
# A drive of Wine's is the whole disk: /a/b is Z:\a\b.
windows_path() { printf 'Z:%s' "${1//\//\\}"; }
python() { "$WINE" "$WINDOWS/python.exe" "$@"; }

fetch_interpreter() {
    python3 -m pip download -q --no-deps --only-binary=:all: --platform win_amd64 --python-version 3.13 "panda3d==$PANDA3D"
    unzip -q panda3d-*.whl 'deploy_libs/*'
    # Wine has the first of these; tests of CPython's own, and Tk, are of no use here.
    (cd deploy_libs && rm -f api-ms-* ./*.cp313t-* _test*.pyd _tkinter.pyd t*86t.dll)
    mkdir -p "$WINDOWS/DLLs"
    mv deploy_libs/python313.dll deploy_libs/VCRUNTIME140*.dll "$WINDOWS"
    mv deploy_libs/*.dll deploy_libs/*.pyd "$WINDOWS/DLLs"
}

fetch_library() {
    download_sources python3.13
    tar xf python3.13_*.orig.tar.xz --strip-components=1 --wildcards '*/Lib' '*/PC/python3dll.c'
    rm -rf Lib/test Lib/idlelib Lib/tkinter Lib/turtledemo
    cp -r Lib "$WINDOWS"
    mkdir -p "$WINDOWS/Lib/site-packages"
}

build_starter() {
    cat >starter.c <<'C'
#include <wchar.h>
extern int Py_Main(int count, wchar_t **arguments);
int _dowildcard = 0; /* the shell of Windows leaves wildcards to programs; Python's does not replace them */
int wmain(int count, wchar_t **arguments) { return Py_Main(count, arguments); }
C
    x86_64-w64-mingw32-gcc -s -municode starter.c "$WINDOWS/python313.dll" -o "$WINDOWS/python.exe"
    { printf 'LIBRARY python3.dll\nEXPORTS\n'
      sed -n 's/^EXPORT_[A-Z]*(\(\w*\))$/\1=python313.\1/p' PC/python3dll.c; } >stable.def
    x86_64-w64-mingw32-gcc -s -shared -nostdlib -Wl,-e0 stable.def -o "$WINDOWS/python3.dll"
}

# Visual C++ passes complex numbers as structures, and its long double is a double.
build_runtime() {
    local wines functions
    wines=$(dpkg -L libwine | grep '/x86_64-windows/ucrtbase.dll$')
    cat >complex.c <<'C'
#include <complex.h>
#include <string.h>
typedef struct { double re, im; } pair;
typedef struct { float re, im; } pairf;
static double complex from(pair p) { double complex c; memcpy(&c, &p, sizeof c); return c; }
static pair to(double complex c) { pair p; memcpy(&p, &c, sizeof p); return p; }
static pair widened(pairf p) { pair wide = {p.re, p.im}; return wide; }
static pairf narrowed(pair p) { pairf narrow = {p.re, p.im}; return narrow; }
static double complex log10c(double complex c) { return clog(c) / 2.302585092994045684; }
static double square(double complex c) { return creal(c) * creal(c) + cimag(c) * cimag(c); }
#define COMPLEX(name, function) \
    pair c99_##name(pair p) { return to(function(from(p))); } \
    pairf c99_##name##f(pairf p) { return narrowed(c99_##name(widened(p))); }
#define REAL(name, function) \
    double c99_##name(pair p) { return function(from(p)); } \
    float c99_##name##f(pairf p) { return c99_##name(widened(p)); }
COMPLEX(cacos, cacos) COMPLEX(cacosh, cacosh) COMPLEX(casin, casin) COMPLEX(casinh, casinh) COMPLEX(catan, catan)
COMPLEX(catanh, catanh) COMPLEX(ccos, ccos) COMPLEX(ccosh, ccosh) COMPLEX(cexp, cexp) COMPLEX(clog, clog)
COMPLEX(clog10, log10c) COMPLEX(conj, conj) COMPLEX(cproj, cproj) COMPLEX(csin, csin) COMPLEX(csinh, csinh)
COMPLEX(csqrt, csqrt) COMPLEX(ctan, ctan) COMPLEX(ctanh, ctanh)
REAL(cabs, cabs) REAL(carg, carg) REAL(cimag, cimag) REAL(creal, creal) REAL(norm, square)
pair c99_cpow(pair p, pair q) { return to(cpow(from(p), from(q))); }
pairf c99_cpowf(pairf p, pairf q) { return narrowed(c99_cpow(widened(p), widened(q))); }
C
    functions=$(grep -oP '\b(COMPLEX|REAL)\(\K[a-z]\w+|pair c99_\K[a-z]\w*(?=\(pair p, )' complex.c | sort -u | tr '\n' ' ')
    { printf 'LIBRARY ucrtbase.dll\nEXPORTS\n'
      x86_64-w64-mingw32-objdump -p "$wines" | awk -v functions="$functions" '
        BEGIN { n = split(functions, names); for (i = 1; i <= n; i++) {
            f = names[i]; ours[f] = f; ours[f "l"] = f; ours[f "f"] = f "f" } }
        /Ordinal\/Name Pointer/ { listed = 1; next }
        listed && /\[ *[0-9]+\]/ { print $NF "=" ($NF in ours ? "c99_" ours[$NF] : "ucrtwine." $NF) }'; } >runtime.def
    x86_64-w64-mingw32-gcc -O2 -s -shared -static-libgcc complex.c runtime.def -o "$WINDOWS/ucrtbase.dll"
    # Wine would take a file with its mark for its own.
    LC_ALL=C sed 's/Wine builtin DLL/Wine patched DLL/' "$wines" >"$WINDOWS/ucrtwine.dll"
}

make_python() {
    local work
    work=$(mktemp -d)
    chmod 755 "$work"  # apt fetches as another user
    apt-get -q update
    apt-get install -qy --no-install-recommends wine64 gcc-mingw-w64-x86-64-win32 unzip xz-utils
    rm -rf "$WINDOWS" "$WINEPREFIX"
    (cd "$work" && fetch_interpreter && fetch_library && build_starter && build_runtime)
    rm -rf "$work"
    timeout 300 "$WINE" wineboot -i
    timeout 60 "$WINE" reg add 'HKCU\Software\Wine\Drivers' /v Graphics /d null /f
    timeout 60 /usr/lib/wine/wineserver -w || true
    python -m ensurepip
    python -m compileall -q "$(windows_path "$WINDOWS")\\Lib" || true
}

# What the extras name, and shoal's own dependencies, as wheels for Windows; the last two are optional on this Python.
install_packages() {
    python -m pip install -q --only-binary=:all: -e "$(windows_path "$ROOT")[test,test-frames]" isal zlib-ng
}

make_once "$HOME_OF" make_python install_packages
cd "$ROOT"
# Each worker would compile all modules again if their bytecode were not kept.
unset PYTHONDONTWRITEBYTECODE
PYTHONPATH=$(windows_path "$ROOT/src") PYTHONPYCACHEPREFIX=$(windows_path "$HOME_OF/bytecode") TESTS_SLOWNESS=4 \
    exec "$WINE" "$WINDOWS/python.exe" -m pytest -n 2 --timeout=480 -p no:cacheprovider "$@"
