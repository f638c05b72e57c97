package pod

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/nodeagent/network"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/userns"
)

// pauseName is the container that holds a shared PID namespace; it is no name
// that a pod's container could have.
const pauseName = "_pause"

// pauseCode ignores SIGCHLD, so that the kernel reaps orphans by itself, and
// then sleeps for ever:
//
//	rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8); for (;;) pause();
func pauseCode(arch string) ([]byte, elf.Machine, error) {
	switch arch {
	case "amd64":
		return []byte{
			0x31, 0xc0, // xor eax, eax
			0x50, 0x50, 0x50, // push rax (mask, restorer, flags)
			0x6a, 0x01, // push 1 (SIG_IGN)
			0x48, 0x89, 0xe6, // mov rsi, rsp
			0x6a, 0x11, 0x5f, // push 17; pop rdi (SIGCHLD)
			0x31, 0xd2, // xor edx, edx
			0x6a, 0x08, 0x41, 0x5a, // push 8; pop r10
			0x6a, 0x0d, 0x58, // push 13; pop rax (rt_sigaction)
			0x0f, 0x05, // syscall
			0x6a, 0x22, 0x58, // push 34; pop rax (pause)
			0x0f, 0x05, // syscall
			0xeb, 0xf9, // jmp to the push
		}, elf.EM_X86_64, nil
	case "arm64":
		code := []uint32{
			0xd10083ff, // sub sp, sp, #32
			0xd2800020, // mov x0, #1 (SIG_IGN)
			0xa9007fe0, // stp x0, xzr, [sp]
			0xa9017fff, // stp xzr, xzr, [sp, #16]
			0xd2800220, // mov x0, #17 (SIGCHLD)
			0x910003e1, // mov x1, sp
			0xd2800002, // mov x2, #0
			0xd2800103, // mov x3, #8
			0xd28010c8, // mov x8, #134 (rt_sigaction)
			0xd4000001, // svc #0
			0xd2800000, // mov x0, #0 (no descriptors)
			0xd2800001, // mov x1, #0
			0xd2800002, // mov x2, #0 (no timeout)
			0xd2800003, // mov x3, #0
			0xd2800004, // mov x4, #0
			0xd2800928, // mov x8, #73 (ppoll)
			0xd4000001, // svc #0
			0x17fffff9, // b to the first of the seven
		}
		var out []byte
		for _, w := range code {
			out = binary.LittleEndian.AppendUint32(out, w)
		}
		return out, elf.EM_AARCH64, nil
	}
	return nil, 0, fmt.Errorf("cannot share a PID namespace on %s", arch)
}

// pauseProgram is a whole static executable around pauseCode: about 150 bytes
// instead of an image that would have to be pulled.
func pauseProgram(arch string) ([]byte, error) {
	code, machine, err := pauseCode(arch)
	if err != nil {
		return nil, err
	}
	const base, head = 0x400000, 64 + 56
	h := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + head, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	size := uint64(head + len(code))
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size,
		Memsz: size, Align: 0x1000,
	}
	out, err := binary.Append(nil, binary.LittleEndian, h)
	if err == nil {
		out, err = binary.Append(out, binary.LittleEndian, p)
	}
	return append(out, code...), err
}

// startPause starts the process whose PID namespace the pod's containers share.
func (p *Pod) startPause(ctx context.Context, dir string, s sandbox) (int, error) {
	program, err := pauseProgram(goruntime.GOARCH)
	if err != nil {
		return 0, err
	}
	root := filepath.Join(dir, "pause")
	// runc makes mount points below the root, which is read-only afterwards.
	for _, d := range []string{root, filepath.Join(root, "proc"), filepath.Join(root, "dev")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return 0, fmt.Errorf("cannot make pause container: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "pause"), program, 0o755); err != nil {
		return 0, fmt.Errorf("cannot make pause container: %w", err)
	}
	identity := p.identity(pauseName, 0)
	req := runtime.Request{
		Container: runtime.Container{ID: identity.ID(), Identity: identity},
		Layer:     []mount.Mount{{Type: "bind", Source: root, Options: []string{"rbind", "ro"}}},
		Bare:      true,
		Runtime:   s.Runtime,
		FirstID:   s.FirstID,
		Spec: &specs.Spec{
			Version: "1.0.2", Root: &specs.Root{Path: "rootfs", Readonly: true},
			Process: &specs.Process{Args: []string{"/pause"}, Cwd: "/", User: specs.User{UID: 65535, GID: 65535},
				Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true},
			Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}}},
			Linux: &specs.Linux{
				CgroupsPath: filepath.Join(p.cgroup(), identity.ID()),
				Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}},
			},
		},
	}
	if s.FirstID != 0 {
		ids := []specs.LinuxIDMapping{{HostID: s.FirstID, Size: userns.Length}}
		on := req.Spec.Linux
		on.UIDMappings, on.GIDMappings = ids, ids
		on.Namespaces = append(on.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace,
			Path: network.UserPath(filepath.Join(dir, "ns"))})
	}
	p.node.Owner.Claim(identity.ID(), p)
	c, err := p.node.Containers.Create(ctx, req)
	if err == nil && c.State == runtime.Created {
		err = p.node.Containers.Start(ctx, c.ID)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot start pause container: %w", err)
	}
	return int(c.PID), nil
}

// stopPause ends it; without one it does nothing.
func (p *Pod) stopPause(ctx context.Context) error {
	if !sharesPID(p.Object()) {
		return nil
	}
	id := p.identity(pauseName, 0).ID()
	p.node.Owner.Unclaim(id)
	return p.node.Containers.Remove(ctx, id, false)
}
