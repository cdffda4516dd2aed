# tail keeps the last line, and this one does not end.
exec 2>&1
tail -n 1 /dev/zero
echo "tail ended with $?"
exit 1
