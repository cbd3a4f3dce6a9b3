#!/bin/sh -e
for t in /etc/nginx/templates/*.template; do
	name=$(basename "$t" .template)
	sed "s/\${NGINX_HOST}/$NGINX_HOST/" "$t" > "/etc/nginx/conf.d/$name"
done
