#!/bin/sh
set -e
if [ "$1" = nginx ]; then
	for f in /docker-entrypoint.d/*.sh; do
		[ -x "$f" ] && "$f"
	done
fi
exec "$@"
