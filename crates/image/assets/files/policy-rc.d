#!/bin/sh
# A sprite has no init system: packages must not start their daemons. See invoke-rc.d(8).
exit 101
