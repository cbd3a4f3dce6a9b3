#!/bin/sh
echo "@GREETING@, $1! I am $(id -un), process $$, on $(hostname)."
