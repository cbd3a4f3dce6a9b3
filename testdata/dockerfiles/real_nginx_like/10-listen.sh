#!/bin/sh
echo "listen 80;" > /etc/nginx/conf.d/listen.conf
