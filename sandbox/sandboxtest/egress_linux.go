package sandboxtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// wire is what a program of the suite does on the network. It prints what became
// of it.
func wire(verb string, args []string) (known bool) {
	switch verb {
	case "fetch": // a URL, as most programs do
		fmt.Print(fetch(http.ProxyFromEnvironment, args[0]))
	case "many": // a URL, so often at a time
		n, _ := strconv.Atoi(args[1])
		var wg sync.WaitGroup
		var ok atomic.Int64
		for range n {
			wg.Go(func() {
				if strings.HasPrefix(fetch(http.ProxyFromEnvironment, args[0]), "200 ") {
					ok.Add(1)
				}
			})
		}
		wg.Wait()
		fmt.Print(ok.Load())
	case "hoard": // connections to the proxy, until it takes no more, and beyond
		own, err := url.Parse(os.Getenv("HTTP_PROXY"))
		if err != nil {
			fmt.Print(err)
			break
		}
		refused := make(chan struct{}, 450)
		for range cap(refused) {
			c, err := net.Dial("tcp", own.Host)
			if err != nil {
				fmt.Println(err)
				break
			}
			go func() {
				if _, err := c.Read(make([]byte, 1)); err == nil { // nothing was said, and so nothing is answered
					refused <- struct{}{}
				}
			}()
		}
		<-refused
		fmt.Println("full")
		select {}
	case "front": // scheme, what to connect to, what to ask for there
		c, err := throughProxy(args[1])
		if err == nil && args[0] == "https" {
			client := tls.Client(c, &tls.Config{ServerName: args[2], InsecureSkipVerify: true})
			err = client.Handshake()
			c = client
		}
		if err != nil {
			fmt.Print(err)
			break
		}
		fmt.Print(ask(c, args[2]))
	case "socks": // host, port, what to ask for there
		c, err := socks(strings.ReplaceAll(args[0], `\0`, "\x00"), args[1])
		if err != nil {
			fmt.Print(err)
			break
		}
		fmt.Print(ask(c, args[2]))
	case "relay": // a URL, through a proxy of the program's own
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Print(err)
			break
		}
		go relay(ln)
		own, _ := url.Parse("http://" + ln.Addr().String())
		fmt.Print(fetch(http.ProxyURL(own), args[0]))
	case "stall": // a URL whose body is not read until there is a file
		resp, err := http.Get(args[0])
		if err != nil {
			fmt.Println(err)
			break
		}
		defer resp.Body.Close()
		fmt.Println("stalled")
		for {
			if _, err := os.Stat("go-on"); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		fmt.Printf("ended after %d bytes: %v\n", n, err)
	default:
		return false
	}
	return true
}

func fetch(proxy func(*http.Request) (*url.URL, error), address string) string {
	client := &http.Client{Transport: &http.Transport{Proxy: proxy, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get(address)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

func proxyAddress() string {
	return strings.TrimPrefix(os.Getenv("HTTPS_PROXY"), "http://")
}

// throughProxy connects by CONNECT.
func throughProxy(to string) (net.Conn, error) {
	c, err := net.Dial("tcp", proxyAddress())
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() // of a refusal; what is connected has none
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	return c, nil
}

// ask sends a request on a connection.
func ask(c net.Conn, host string) string {
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// socks connects by SOCKS5.
func socks(host, port string) (net.Conn, error) {
	c, err := net.Dial("tcp", proxyAddress())
	if err != nil {
		return nil, err
	}
	n, _ := strconv.Atoi(port)
	request := []byte{5, 1, 0, 3, byte(len(host))}
	if a, err := netip.ParseAddr(host); err == nil {
		request = append([]byte{5, 1, 0, 1}, a.AsSlice()...)
	} else {
		request = append(request, host...)
	}
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		return nil, err
	}
	if _, err := c.Write(append(request, byte(n>>8), byte(n))); err != nil {
		return nil, err
	}
	reply := make([]byte, 10)
	if _, err := io.ReadFull(c, reply); err != nil {
		return nil, err
	}
	if reply[1] != 0 {
		return nil, fmt.Errorf("SOCKS %d", reply[1])
	}
	return c, nil
}

// relay is a proxy that asks the next one for what it is asked.
func relay(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var d net.Dialer
			next, err := d.DialContext(context.Background(), "tcp", proxyAddress())
			if err != nil {
				return
			}
			defer next.Close()
			go io.Copy(next, c)
			io.Copy(c, next)
		}()
	}
}
