# shellcheck shell=sh
# Settings of the sprite for login shells; see /.sprite/llm.txt.
for sprite_profile in /.sprite/etc/profile.d/*.sh; do
  # shellcheck disable=SC1090
  if [ -r "$sprite_profile" ]; then . "$sprite_profile"; fi
done
unset sprite_profile
