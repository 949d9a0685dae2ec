# Sourced by the other scripts: makes the virtual environment in $VENV (default .venv) and puts $python in place.
# PYTHON names another interpreter. uv is used where it is installed, venv and pip otherwise.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "$(uname -s)" in
  Linux | Darwin) ;;  # macOS: written for, not tested
  *) echo "colbert-rerank does not run on Windows itself: install it in WSL 2 (wsl --install) and run this there." >&2; exit 2 ;;
esac

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if supported "$candidate"; then echo "$candidate"; return; fi
  done
  echo "No Python from 3.10 to 3.13 found${PYTHON:+ ($PYTHON is none)}. Install one, or name it: PYTHON=/path/to/python3.12" >&2
  return 2
}

# install GROUP... : the package, editable, with these dependency groups; at once where nothing has changed
install() {
  local venv=${VENV:-.venv} base stamp wanted held='' group groups=()
  base=$(find_python) || exit 2
  case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
  python=$venv/bin/python
  stamp=$venv/.installed  # a line for what was installed, and one for the groups: they only get more
  wanted="$("$base" -c 'import sys; print(sys.version)') $(cat pyproject.toml constraints.txt hatch_build.py colbert_rerank/native/*.[ch] | cksum)"
  if [ -x "$python" ] && [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$wanted" ]; then held=$(tail -n 1 "$stamp"); fi
  for group in "$@"; do case " $held " in *" $group "*) ;; *) groups+=("$group") ;; esac; done
  if [ -n "$held" ] && [ ${#groups[@]} = 0 ]; then return; fi
  held="package $(echo ${held#package} ${groups[*]:-})"
  groups=()
  for group in ${held#package}; do groups+=(--group "$group"); done
  echo "Installing into $venv (torch is large: a few minutes the first time) ..." >&2
  rm -f "$stamp"
  if command -v uv >/dev/null; then
    [ -x "$python" ] && supported "$python" || uv venv --quiet --clear --python "$base" "$venv"
    uv pip install --quiet --python "$python" -c constraints.txt -e . ${groups[@]+"${groups[@]}"}
  else
    [ -x "$python" ] && supported "$python" || "$base" -m venv --clear "$venv" || {
      echo "This Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
    "$python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . ${groups[@]+"${groups[@]}"}
  fi
  printf '%s\n%s\n' "$wanted" "$held" > "$stamp"
}
