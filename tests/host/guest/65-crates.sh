# The crates' own tests, on this kernel (script/test-host --crates).
# shellcheck shell=bash disable=SC2154,SC2016

export SPRITE_TEST_ATTACK=$here/attack
crate_tests() {
  "$here/crates/$1" --test-threads=2 "${@:2}" 2>&1 | tee "$state/crate" || {
    grep -E '^test .* (FAILED|ignored)|panicked|^test result' "$state/crate"
    return 1
  }
  # Some tests run the program again, which then says the same of its part.
  sed -n 's/^test result: //p' "$state/crate" | sed -n '$s/^/note: /p'
  sed -n 's/^skipped/note: skipped/p' "$state/crate"
}
container() { crate_tests sprite-container; }
network() { crate_tests sprite-network; }
disk() { crate_tests sprite-disk; }
# Taking a disk over from a killed server. The other tests want to be alone with their loop devices,
# which udev opens, too.
blockdev() { crate_tests sprite-blockdev kills::; }

phase "the crates' own tests"
check "sprite-container" container 900
check "sprite-network" network 600
check "sprite-disk" disk 300
check "sprite-blockdev" blockdev 900
