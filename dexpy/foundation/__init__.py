"""The foundation of all packages; imported first, so that it detects another package named ``dexpy``."""

from dexpy.foundation.package_conflict import check_package

check_package()
