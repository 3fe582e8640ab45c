"""What goes wrong at WeChat Pay beside what goes wrong everywhere."""

from channels.simulator.faults import Faults, Share


class WechatFaults(Faults, frozen=True, forbid_unknown_fields=True):
    """Of notifications: `probe`, `stale`, `wrong_serial`: a SIGNTEST signature, an old timestamp, a serial nobody knows
    come first and the genuine one after them. `certificate_share`: signed by a platform certificate instead of the
    public key; `rotation`: of what certificates sign, by the new one, which is also listed as soon as this is above 0.

    Of requests: `accepted` a 202, not executed.
    """

    probe: Share = 0.0
    stale: Share = 0.0
    wrong_serial: Share = 0.0
    certificate_share: Share = 0.0
    rotation: Share = 0.0
    accepted: Share = 0.0
