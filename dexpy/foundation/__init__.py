"""What all of dexpy builds on; the first import of any module, so it refuses another package's ``dexpy``."""

from dexpy.foundation.package_conflict import check_package

check_package()
