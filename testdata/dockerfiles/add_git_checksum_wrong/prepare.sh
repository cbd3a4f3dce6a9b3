export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null LC_ALL=C
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_AUTHOR_DATE='1000000000 +0000'
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com GIT_COMMITTER_DATE='1000000000 +0000'
mkdir -p web r/sub
cd r
git init -q -b main
printf 'one\n' > f
printf 'g\n' > sub/g
ln -s ../f sub/link
git add -A
git commit -q -m one
git tag -a -m v1 v1
printf 'two\n' > f
printf '#!/bin/sh\n' > sub/run
chmod 700 sub/run
git add -A
git commit -q -m two
cd ..
git clone -q --bare r web/r.git
git -C web/r.git update-server-info
git -C r rev-parse HEAD
rm -rf r
chmod -R u=rwX,go=rX web
