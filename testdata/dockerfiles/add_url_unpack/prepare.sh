mkdir -p web t
printf 'f\n' > t/f
tar -C t --owner=55 --group=66 --mode=0640 --mtime=@1000000000 -cf - f | gzip -n > web/t.tgz
rm -r t
printf 'plain\n' > web/plain
