#!/usr/bin/env bash
# Builds both images and runs them where there is no container engine: buildah in a chroot, on a
# Debian that debootstrap makes, in a network like the one Docker gives a container.  Needs root,
# buildah, debootstrap, curl, iproute2, util-linux and a package index.
#
#   SMOKE_DIR=/var/tmp/smoke docker/smoke.sh
#
# What it makes lies in SMOKE_DIR, some 8 GB, and is used again; `docker/smoke.sh --clean` removes it.
# torch comes from TORCH_INDEX, by default its index for the CPU: the image for CUDA differs in
# that alone.  TORCH_WHEELS names a folder with its wheel instead.  DEBIAN_MIRROR as for debootstrap.
set -euo pipefail
cd "$(dirname "$0")/.."

SMOKE_DIR=${SMOKE_DIR:-/tmp/lorax-spec-smoke}
DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
BASE=localhost/lorax-spec-base
export BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker TMPDIR=$SMOKE_DIR/tmp
mkdir -p "$SMOKE_DIR"/{tmp,data}

buildah() {
    command buildah --root "$SMOKE_DIR/storage" --runroot "$SMOKE_DIR/run" \
        --storage-driver "${STORAGE_DRIVER:-overlay}" "$@"
}

say() { printf '\n--> %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
fail_with() { # name, what: and the end of its log
    tail -20 "$SMOKE_DIR/$1.err" >&2
    fail "$@"
}

if [[ ${1-} == --clean ]]; then
    buildah rm --all > /dev/null
    buildah rmi --all --force > /dev/null
    rm -rf "$SMOKE_DIR"/{storage,run,tmp,data,rootfs,index,{serve,worker,router}.{out,err}}
    rmdir --ignore-fail-on-non-empty "$SMOKE_DIR"
    exit
fi

make_base() {
    buildah inspect "$BASE" > /dev/null 2>&1 && return
    say "a Debian from $DEBIAN_MIRROR"
    [[ -e $SMOKE_DIR/rootfs/etc/debian_version ]] ||
        debootstrap --variant=minbase bookworm "$SMOKE_DIR/rootfs" "$DEBIAN_MIRROR"
    rm -rf "$SMOKE_DIR"/rootfs/var/{cache/apt/archives,lib/apt/lists}/*
    local container
    container=$(buildah from scratch)
    tar -C "$SMOKE_DIR/rootfs" -cf "$SMOKE_DIR/rootfs.tar" .
    buildah add -q "$container" "$SMOKE_DIR/rootfs.tar" / > /dev/null
    buildah commit -q --rm "$container" "$BASE" > /dev/null
    rm "$SMOKE_DIR/rootfs.tar"
}

build() { # target
    say "building $1"
    local options=()
    if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then # of a proxy, maybe
        options+=(--volume /etc/ssl/certs/ca-certificates.crt:/run/host-ca.crt:ro
            --build-arg PIP_CERT=/run/host-ca.crt)
    fi
    if [[ -n ${TORCH_WHEELS-} ]]; then
        mkdir -p "$SMOKE_DIR/index/torch"
        cp -u "$TORCH_WHEELS"/torch-*.whl "$SMOKE_DIR/index/torch/"
        (cd "$SMOKE_DIR/index/torch" && printf '<a href="%s"></a>\n' ./*.whl > index.html)
        options+=(--volume "$SMOKE_DIR/index:/run/index:ro")
        TORCH_INDEX=file:///run/index
    fi
    buildah bud --quiet --layers --pull-never "${options[@]}" \
        --build-arg "BASE=$BASE" \
        --build-arg "TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" \
        --target "$1" --tag "localhost/lorax-spec:$1" --file docker/Dockerfile .
}

# A network of its own in which, as in Docker's, nobody needs a privilege for port 80.
open_network() {
    unshare --net sh -c '
        ip link set lo up && echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
        exec sleep infinity' &
    network=$!
    disown
    until nsenter --target $network --net ip link show lo | grep -q ,UP; do sleep 0.1; done
}
outside() { nsenter --target "$network" --net "$@"; }

container_of() { buildah from --pull-never "localhost/lorax-spec:$1"; }
entrypoint_of() { buildah inspect --format '{{index .OCIv1.Config.Entrypoint 0}}' "$1"; }

in_network() { # words of buildah
    outside bash -c "$(declare -f buildah); SMOKE_DIR='$SMOKE_DIR' buildah \"\$@\"" - "$@"
}

# As `docker run --cap-drop ALL -v $SMOKE_DIR/data:/data IMAGE WORDS`.
docker_run() { # container, words
    local container=$1
    shift
    in_network run --user "$user:$user" --cap-drop ALL --volume "$SMOKE_DIR/data:/data" \
        "$container" -- "$(entrypoint_of "$container")" "$@"
}
inside() { # container, command
    in_network run --user "$user:$user" "$1" -- "${@:2}"
}
healthy() {
    inside "$1" /opt/lorax-spec/bin/python /usr/local/lib/lorax-spec/healthcheck.py 2> /dev/null
}

processes() { # pattern: those of our network, for there may be others like them
    local process here
    here=$(readlink "/proc/$network/ns/net")
    for process in $(pgrep --full "$1"); do
        [[ $(readlink "/proc/$process/ns/net") != "$here" ]] || echo "$process"
    done
}

start() { # name, container, words
    local name=$1
    shift
    docker_run "$@" > "$SMOKE_DIR/$name.out" 2> "$SMOKE_DIR/$name.err" &
    started[$name]=$!
    for _ in $(seq 1200); do
        grep -q '^ready ' "$SMOKE_DIR/$name.out" && break
        kill -0 "${started[$name]}" 2> /dev/null || fail_with "$name" "ended"
        sleep 0.1
    done
    grep '^ready ' "$SMOKE_DIR/$name.out" || fail "$name was not ready in two minutes"
}

stop() { # name, command: SIGTERM, and it must end with status 0
    local process status=0
    # What the entry point became, which Docker would send its signals to.
    process=$(processes "^/opt/lorax-spec/bin/python /opt/lorax-spec/bin/lorax-spec $2")
    [[ $(stat -c %u "/proc/$process") == "$user" ]] || fail "$1 does not run as uid $user"
    kill -TERM "$process"
    wait "${started[$1]}" || status=$?
    [[ $status == 0 ]] || fail_with "$1" "ended with status $status"
    echo "$1: SIGTERM ended it with status 0"
}

generate_http() {
    outside curl --silent --show-error --fail http://127.0.0.1/generate \
        --header 'content-type: application/json' \
        --data '{"inputs": "def add(a, b):", "parameters": {"max_new_tokens": 12}}'
    echo
}

tidy() {
    if [[ -n ${network-} ]]; then
        processes /opt/lorax-spec/bin/ | xargs --no-run-if-empty kill || true
        kill "$network"
    fi
    wait || true
    buildah rm "${full-}" "${router-}" > /dev/null 2>&1 || true
}

declare -A started
user=1000
make_base
build router
build full
trap tidy EXIT
full=$(container_of full)
router=$(container_of router)
chown 1000:1000 "$SMOKE_DIR/data"
open_network

say "sizes"
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep ^localhost

say "help"
[[ $(docker_run "$full" --help) == *--speculative-tokens* ]] || fail "no help of serve"
[[ $(docker_run "$router" --help) == *--worker* ]] || fail "no help of router"
! inside "$router" /opt/lorax-spec/bin/python -c 'import torch' 2> /dev/null || fail "torch in the router"
inside "$full" /opt/lorax-spec/bin/python -c 'import torch; print("torch", torch.__version__)'

say "full: serve"
start serve "$full" --speculative-tokens 3
healthy "$full"
generate_http
inside "$router" lorax-spec generate "def add(a, b):" --max-new-tokens 12
stop serve serve
! healthy "$full" || fail "healthy without a server"

say "full: worker, router: router; a user that nobody knows and that may not write to /data"
user=4321
start worker "$full" worker --listen 127.0.0.1:6000
healthy "$full"
grep -q "uid 4321 may not write" "$SMOKE_DIR/worker.err" || fail "no word of /data"
start router "$router" --worker 127.0.0.1:6000
healthy "$router"
generate_http
stop router router
stop worker worker

say "all is well"
