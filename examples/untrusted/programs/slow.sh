echo so far, so good
trap '' TERM
sleep 1000
