#!/bin/sh
# `docker run IMAGE WORDS`: a first word that is a command of lorax-spec goes there; else the words
# are for the image's own command, serve or router.
set -eu

case "${1-}" in
    serve | generate | adapters | keys | demo | doctor | train | bench | router | worker) ;;
    *) set -- "${LORAX_SPEC_COMMAND:-serve}" "$@" ;;
esac

# The mounted folder may be somebody else's; then what is downloaded and compiled goes elsewhere.
writable() {
    folder=$1
    until [ -e "$folder" ]; do folder=$(dirname "$folder"); done
    [ -w "$folder" ]
}

moved=
for name in HF_HUB_CACHE LORAX_SPEC_ADAPTER_CACHE_DIR TRITON_CACHE_DIR; do
    eval "cache=\${$name-}"
    [ -n "$cache" ] || continue
    # Nothing is downloaded then, and a folder that can only be read will do.
    [ "$name" = HF_HUB_CACHE ] && [ -n "${HF_HUB_OFFLINE-}" ] && continue
    writable "$cache" && continue
    moved="$moved $name=$cache"
    export "$name=${TMPDIR:-/tmp}/lorax-spec/$name"
done
[ -z "$moved" ] ||
    echo "entrypoint: uid $(id -u) may not write to:$moved; what would lie there is in" \
        "${TMPDIR:-/tmp}/lorax-spec and goes with the container" \
        "(to keep it: docker run --user \"\$(id -u):\$(id -g)\")" >&2

# Whatever its ports and TLS, a server can be asked there for its health.
case "$1" in
    serve | router) export LORAX_SPEC_UDS="${LORAX_SPEC_UDS:-/tmp/lorax-spec.sock}" ;;
esac

exec lorax-spec "$@"
