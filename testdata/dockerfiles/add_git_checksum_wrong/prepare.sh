. "$CASES/add_git/prepare.sh"
