"""Large packets of devices with offload: cut into ordinary ones, and put together of them.

Any process that uses such a device runs this.
"""
