set -eu
printf %s "$STEPWARD_DEVDB_PASSWORD" >/tmp/pw
initdb -D /tmp/pg -U stepward --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/pw \
	-E UTF8 --locale=C --no-sync >/dev/null
echo 'host all all all scram-sha-256' >>/tmp/pg/pg_hba.conf
postgres -D /tmp/pg -k /tmp -c listen_addresses='*' -c fsync=off -c full_page_writes=off \
	-c max_connections=300 -c max_locks_per_transaction=256 -c max_wal_size=2GB -c timezone=UTC \
	-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 &
server=$!
trap 'kill -QUIT $server; exit 0' TERM INT

# 15 s for the first hold, then 5 s without one.
idle=0
patience=15
while [ $idle -lt $patience ]; do
	sleep 1
	kill -0 $server || exit 1
	holds=$(psql -h /tmp -U stepward -d postgres -XAtc \
		"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stepward-devdb-hold'") || holds=0
	if [ "$holds" = 0 ]; then
		idle=$((idle + 1))
	else
		idle=0
		patience=5
	fi
done
kill -QUIT $server
wait $server || true
