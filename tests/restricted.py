"""The profile `restricted` of Kubernetes's Pod Security Standards, and what this project asks beyond it."""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROFILES = ("RuntimeDefault", "Localhost")
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
}


def violations(template: dict) -> list[str]:
    """Return what the admission of a pod would object to."""
    spec, pod = template["spec"], template["spec"].get("securityContext", {})
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    found += [f"sysctl {each['name']}" for each in pod.get("sysctls", []) if each["name"] not in SYSCTLS]
    for volume in spec.get("volumes", []):
        found += [f"volume {volume['name']}: {kind}" for kind in set(volume) - VOLUMES - {"name"}]
    all_containers = [
        each for kind in ("containers", "initContainers", "ephemeralContainers") for each in spec.get(kind, [])
    ]
    for each in [{"name": "the pod", "securityContext": pod}, *all_containers]:
        own = each.get("securityContext", {})
        found += [f"{each['name']}: {what}" for what in _own(own, each)]
    for each in all_containers:
        found += [f"{each['name']}: {what}" for what in _together(each.get("securityContext", {}), pod)]
    return found


def _own(context: dict, container: dict) -> list[str]:
    found = []
    if context.get("privileged"):
        found.append("privileged")
    if context.get("runAsUser") == 0:
        found.append("runAsUser 0")
    if context.get("runAsNonRoot") is False:
        found.append("runAsNonRoot false")
    if context.get("procMount", "Default") != "Default":
        found.append("procMount")
    if context.get("windowsOptions", {}).get("hostProcess"):
        found.append("hostProcess")
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in PROFILES:
        found.append("AppArmor")
    selinux = context.get("seLinuxOptions", {})
    if (
        selinux.get("user")
        or selinux.get("role")
        or selinux.get("type", "container_t")
        not in (
            "",
            "container_t",
            "container_init_t",
            "container_kvm_t",
            "container_engine_t",
        )
    ):
        found.append("SELinux")
    if "seccompProfile" in context and context["seccompProfile"].get("type") not in PROFILES:
        found.append("seccompProfile")
    found += [f"hostPort {each['hostPort']}" for each in container.get("ports", []) if each.get("hostPort")]
    return found


def _together(own: dict, pod: dict) -> list[str]:
    found = []
    if not (own.get("runAsNonRoot") or pod.get("runAsNonRoot")):
        found.append("runAsNonRoot is missing")
    if "seccompProfile" not in own and "seccompProfile" not in pod:
        found.append("seccompProfile is missing")
    if own.get("allowPrivilegeEscalation") is not False:
        found.append("allowPrivilegeEscalation")
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        found.append("capabilities are not dropped")
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        found.append("capabilities are added")
    return found


def beyond(template: dict) -> list[str]:
    """Return what this project asks of a pod beyond the profile."""
    spec = template["spec"]
    found = [] if spec.get("automountServiceAccountToken") is False else ["a token is mounted"]
    for each in [*spec.get("initContainers", []), *spec["containers"]]:
        if not each.get("securityContext", {}).get("readOnlyRootFilesystem"):
            found.append(f"{each['name']}: root file system can be written")
        for kind in ("requests", "limits"):
            if missing := {"cpu", "memory", "ephemeral-storage"} - set(each.get("resources", {}).get(kind, {})):
                found.append(f"{each['name']}: no {kind} of {', '.join(sorted(missing))}")
        if "/tmp" not in {mount["mountPath"] for mount in each["volumeMounts"]}:
            found.append(f"{each['name']}: /tmp cannot be written")
    volumes = {each["name"]: each for each in spec.get("volumes", [])}
    found += [f"{name}: no sizeLimit" for name, each in volumes.items() if each.get("emptyDir", {"sizeLimit": 1}) == {}]
    return found
