# What the scripts that make a Python share. They source this file.

# Make something once in a folder, by running the functions that are named. What they say goes to a log in the folder.
make_once() {
    local folder=$1 failed
    shift
    [ ! -e "$folder/made" ] || return 0
    mkdir -p "$folder"
    echo "making a Python in $folder; what is said meanwhile is in $folder/log"
    set +e  # within a condition, no failure in the functions would end them
    (set -e; for step in "$@"; do "$step"; done) >"$folder/log" 2>&1 </dev/null
    failed=$?
    set -e
    [ $failed = 0 ] || { tail -5 "$folder/log" >&2; exit 1; }
    touch "$folder/made"
}

# Download the sources of Debian's packages into the current folder.
download_sources() {
    mkdir -p lists/partial
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >sources.sources
    local apt=(apt-get -q -o "Dir::Etc::sourcelist=$PWD/sources.sources" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$PWD/lists")
    "${apt[@]}" update
    "${apt[@]}" source --download-only "$@"
}
